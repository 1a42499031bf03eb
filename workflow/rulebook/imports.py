"""What a module does, with all that it imports from here and elsewhere: `code` of the rules."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from workflow.rulebook.fingerprint import installed
from workflow.rulebook.place import PACKAGES

# what others made and results depend on: the module that is imported -> what pip calls it
OTHERS = {
    **{name: name for name in ("numpy", "numba", "llvmlite", "onnx", "onnxruntime", "torch")},
    **{name: name for name in ("transformers", "scipy", "seqeval")},
    "sklearn": "scikit-learn",
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def code_fingerprint(root: Path, modules: Iterable[str]) -> str:
    """Sixteen hexadecimal digits; comments, docstrings and layout do not count."""
    lines = (f"{name} {_meaning(root / name)}\n" for name in imported_files(root, modules))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def other_packages(root: Path, modules: Iterable[str]) -> str:
    """Those of OTHERS that the modules import, or what they import from here, with versions."""
    files = imported_files(root, modules)
    names = {name for file in files for name in _top_level(root / file)}
    return ", ".join(
        f"{OTHERS[name]} {installed(OTHERS[name])}" for name in OTHERS if name in names
    )


@cache
def _top_level(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return frozenset(names)


def imported_files(root: Path, modules: Iterable[str]) -> list[str]:
    """The modules (paths below root) and what they import, sorted; absent modules are left out.

    `from engine.graph import Graph` means engine/graph.py and not engine/__init__.py: the rule then
    depends on what it uses, not on all that the package's front door pulls in. A package that
    imports by name (the table of kernels does) stands for all its modules.
    """
    found: set[Path] = set()
    waiting = [root / module for module in modules]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        waiting.extend(_imports(root, path))
    return sorted(str(path.relative_to(root)) for path in found)


@cache  # the rules share most files
def _imports(root: Path, path: Path) -> tuple[Path, ...]:
    return tuple(_modules(root, path))


def _modules(root: Path, path: Path) -> Iterator[Path]:
    package = path.relative_to(root).parent.parts
    if path.name == "__init__.py" and "import_module(" in path.read_text(encoding="utf-8"):
        yield from path.parent.rglob("*.py")
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(root, tuple(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = above + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                inner = list(_module(root, (*base, alias.name)))
                yield from inner or _module(root, base)


def _module(root: Path, name: tuple[str, ...]) -> Iterator[Path]:
    if name and name[0] in PACKAGES:
        folder = root.joinpath(*name)
        for path in (folder.with_suffix(".py"), folder / "__init__.py"):
            if path.exists():
                yield path


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _meaning(path: Path) -> str:
    tree = _parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
