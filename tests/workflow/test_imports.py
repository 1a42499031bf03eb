"""The files a module imports, which are inputs of the rules that run it."""

from pathlib import Path

from workflow.rulebook import imports
from workflow.rulebook.imports import code_fingerprint, imported_files

ROOT = Path(__file__).parents[2]


def write(root, **files):
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_are_followed(tmp_path):
    write(
        tmp_path,
        engine__a="from .b import x\nimport numpy\n",
        engine__b="from . import c\n\ndef f():\n    from engine.passes.d import y\n",
        engine__c="",
        engine__passes__d="from ..e import z\n",
        engine__e="import engine.c\n",
        engine__unused="",
    )
    (tmp_path / "engine/__init__.py").write_text("from .unused import u\n")
    assert imported_files(tmp_path, ["engine/a.py", "engine/absent.py"]) == [
        "engine/a.py",
        "engine/b.py",
        "engine/c.py",
        "engine/e.py",
        "engine/passes/d.py",
    ]


def test_the_front_door_is_followed_when_it_is_used(tmp_path):
    write(tmp_path, workflow__run="import engine\n", engine__a="")
    (tmp_path / "engine/__init__.py").write_text("from .a import load\n")
    found = imported_files(tmp_path, ["workflow/run.py"])
    assert found == ["engine/__init__.py", "engine/a.py", "workflow/run.py"]


def test_a_package_that_imports_by_name_stands_for_its_modules(tmp_path):
    write(tmp_path, engine__a="from . import kernels\n", engine__kernels__dot="", engine__b="")
    text = "import importlib\n\ndef get(row):\n    return importlib.import_module(row.module)\n"
    (tmp_path / "engine/kernels/__init__.py").write_text(text)
    found = imported_files(tmp_path, ["engine/a.py"])
    assert found == ["engine/a.py", "engine/kernels/__init__.py", "engine/kernels/dot.py"]


def test_export_depends_on_no_more_of_the_engine_than_how_it_writes():
    found = imported_files(ROOT, ["workflow/scripts/convert/export.py"])
    assert [path for path in found if path.startswith("engine")] == ["engine/files/replacing.py"]


def test_benchmark_depends_on_the_engine():
    found = imported_files(ROOT, ["workflow/scripts/measure/benchmark.py"])
    assert {"engine/measure/instances.py", "workflow/scripts/measure/timings.py"} <= set(found)


def test_a_session_depends_on_every_kernel():
    found = imported_files(ROOT, ["engine/__init__.py"])
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "engine/kernels").glob("*.py")}
    assert kernels <= set(found)


def test_packages_of_others_stand_with_their_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "installed", {"numpy": "1.26", "scikit-learn": "1.9"}.get)
    inside = "def f():\n    from sklearn.metrics import x\n    import pandas\n"
    write(tmp_path, engine__a="from . import b\nimport numpy.linalg\n", engine__b=inside)
    write(tmp_path, engine__unused="import torch\n")
    assert imports.other_packages(tmp_path, ["engine/a.py"]) == "numpy 1.26, scikit-learn 1.9"


def test_what_was_read_is_kept_and_what_is_kept_may_be_anything(tmp_path, monkeypatch):
    write(tmp_path, engine__a="import torch\nfrom . import b\n", engine__b="x = 1\n")
    monkeypatch.chdir(tmp_path)
    found, reads, read = [], [], imports._read
    monkeypatch.setattr(imports, "_read", lambda *file: reads.append(file) or read(*file))
    for kept in (None, None, "{", '{"a": 1}', "[]"):
        for each in (imports._contents, imports._kept, imports._asked, imports._imports):
            each.cache_clear()
        if kept:
            imports.KEPT.write_text(kept)
        found.append((code_fingerprint(tmp_path, ["engine/a.py"]), len(reads)))
        imports.keep_what_was_read()
    same, numbers = zip(*found, strict=True)
    assert len(set(same)) == 1 and numbers == (2, 2, 4, 6, 8)
    assert "torch" in imports.KEPT.read_text()


# --- what the code does ---

BEFORE = "import numpy\n\n\ndef f(x):\n    return x + 1\n"
SAME = '"""What for."""\nimport numpy  # why\n\ndef f(x):\n    """Adds."""\n    return (x + 1)\n'


def test_comments_docstrings_and_layout_do_not_count(tmp_path):
    found = []
    for number, text in enumerate((BEFORE, SAME, BEFORE.replace("1", "2"))):
        folder = tmp_path / str(number)
        write(folder, engine__a="from engine import b\n", engine__b=text)
        found.append(code_fingerprint(folder, ["engine/a.py"]))
    same, also, different = found
    assert same == also != different
