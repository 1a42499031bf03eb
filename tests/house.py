"""Counts of the house: `python -m tests.house` (`make size`) prints them, tests hold some of them.

Modules beside the folders of engine/, import cycles, how long functions are and how many arguments
they take, lines per folder, the longest files.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "workflow")
INNER = ("kernels", "codegen/simd")  # code that becomes LLVM: an inner kernel names its operands
LONGEST = 8  # files that are shown


@dataclass(frozen=True)
class Function:
    """A function, where it stands, how long it is and how many arguments it takes."""

    place: str
    lines: int
    arguments: int
    is_inner: bool


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> those it imports, inside functions and for types too: none hides a cycle."""
    return {name: set(_imports(known, name, path)) - {name} for name, path in known.items()}


def _imports(known: Mapping[str, Path], name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield from [each for each in (inner, base) if each in known][:1]


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import one another: sets of which each reaches the other."""
    reached = {name: _reached(graph, name) for name in graph}
    rings = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(ring) for ring in sorted(rings)]


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def functions(package: str) -> list[Function]:
    found = []
    for path in modules(package).values():
        place = path.relative_to(ROOT / package).as_posix()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = node.args
                count = len(taken.posonlyargs + taken.args + taken.kwonlyargs)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                inner = place.startswith(INNER)
                found.append(Function(f"{place}:{node.lineno} {node.name}", lines, count, inner))
    return found


def lines_of(paths: Iterator[Path] | list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def report(package: str) -> Iterator[str]:
    """Lines for people."""
    files = list(modules(package).values())
    all_functions = functions(package)
    sizes = sorted(each.lines for each in all_functions)
    longest = max(all_functions, key=lambda each: each.lines)
    outer = max((f for f in all_functions if not f.is_inner), key=lambda each: each.arguments)
    beside = len(list((ROOT / package).glob("*.py")))
    yield f"{package}: {lines_of(files)} lines, {len(files)} files, {beside} beside the folders"
    yield f"  import cycles: {cycles(imports(modules(package))) or 'none'}"
    middle, most = statistics.median(sizes), sizes[len(sizes) * 9 // 10]
    yield f"  functions: median {middle:g} lines, 90 % up to {most}"
    yield f"  longest function: {longest.place} ({longest.lines})"
    yield f"  most arguments outside kernels: {outer.place} ({outer.arguments})"
    for folder in sorted(each for each in (ROOT / package).iterdir() if each.is_dir()):
        if paths := list(folder.rglob("*.py")):
            yield f"  {lines_of(paths):6} {folder.name}/"
    by_length = sorted(files, key=lambda path: -lines_of([path]))
    for path in by_length[:LONGEST]:
        yield f"  {lines_of([path]):6} {path.relative_to(ROOT)}"


if __name__ == "__main__":
    for each in PACKAGES:
        print("\n".join(report(each)))
