"""What a module does, with all that it imports from here and elsewhere: `code` of the rules.

.snakemake/code.json keeps what is in a file, by the file's sha256: the rules of every run ask for
hundreds of files.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workflow.rulebook.fingerprint import OTHERS, installed
from workflow.rulebook.place import PACKAGES
from workflow.rulebook.writing import whole

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
KEPT = Path(".snakemake/code.json")


@dataclass(frozen=True)
class Import:
    """`from ..module import name, other` has two dots, `import module` no names."""

    module: str
    names: tuple[str, ...] = ()
    dots: int = 0


@dataclass(frozen=True)
class Contents:
    """by_name: it imports what a text says; comments, docstrings and layout have no meaning."""

    meaning: str
    imports: tuple[Import, ...]
    by_name: bool


def code_fingerprint(root: Path, modules: Iterable[str]) -> str:
    """Sixteen hexadecimal digits; comments, docstrings and layout do not count."""
    lines = (f"{name} {_contents(root / name).meaning}\n" for name in imported_files(root, modules))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def other_packages(root: Path, modules: Iterable[str]) -> str:
    """Those of OTHERS that the modules import, or what they import from here, with versions."""
    files = imported_files(root, modules)
    imports = (each for file in files for each in _contents(root / file).imports)
    names = {each.module.split(".")[0] for each in imports if not each.dots}
    found = (package for module, package in OTHERS.items() if module in names)
    return ", ".join(f"{package} {installed(package)}" for package in found)


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
    contents = _contents(path)
    if path.name == "__init__.py" and contents.by_name:
        yield from path.parent.rglob("*.py")
    for each in contents.imports:
        above = package[: len(package) - each.dots + 1] if each.dots else ()
        base = (*above, *each.module.split(".")) if each.module else above
        if not each.names:
            yield from _module(root, base)
        for name in each.names:
            inner = list(_module(root, (*base, name)))
            yield from inner or _module(root, base)


def _module(root: Path, name: tuple[str, ...]) -> Iterator[Path]:
    if name and name[0] in PACKAGES:
        folder = root.joinpath(*name)
        for path in (folder.with_suffix(".py"), folder / "__init__.py"):
            if path.exists():
                yield path


# --- what is in a file ---


@cache
def _contents(path: Path) -> Contents:
    text = path.read_bytes()
    name = hashlib.sha256(_reader() + text).hexdigest()
    found = _asked()[name] = _kept().get(name) or _read(text, path)
    return found


@cache
def _reader() -> bytes:
    """What else `Contents` depend on: this file, and Python's own grammar."""
    return f"{sys.version_info[:2]}".encode() + Path(__file__).read_bytes()


def _read(text: bytes, path: Path) -> Contents:
    tree = ast.parse(text, filename=str(path))
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append(Import(node.module or "", names, node.level))
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    meaning = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Contents(meaning, tuple(imports), b"import_module(" in text)


@cache
def _kept() -> dict[str, Contents]:
    """Those that an earlier run has read; none, where the file is not there or not whole."""
    try:
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
        return {name: _from_json(*each) for name, each in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _from_json(meaning: str, imports: list[Any], by_name: bool) -> Contents:
    found = tuple(Import(str(module), tuple(names), int(dots)) for module, names, dots in imports)
    return Contents(str(meaning), found, bool(by_name))


@cache
def _asked() -> dict[str, Contents]:
    """Those of this run."""
    return {}


def keep_what_was_read() -> None:
    """For the next run, when all rules have asked; what cannot be written costs it time."""
    if _asked() == _kept():
        return
    asked = {name: astuple(each) for name, each in _asked().items()}
    with suppress(OSError):
        KEPT.parent.mkdir(exist_ok=True)
        with whole(KEPT) as partial:
            partial.write_text(json.dumps(asked), encoding="utf-8")
