"""Imports go only up the table of docs/design.md, and some packages have one place only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
CONFINED = {  # package -> modules that may import it
    "onnx": {"onnx_reader"},
    "yaml": {"conf"},
    "numba": {"lower", "simd", "compile", "kernels", "runtime"},
    "llvmlite": {"lower", "simd", "compile", "kernels", "runtime"},
    "torch": set(),
    "onnxruntime": set(),
    "transformers": set(),
}
FILES = sorted(ENGINE.rglob("*.py"))


def levels() -> dict[str, int]:
    """Module or package of engine/ -> its row in the table."""
    rows = [line for line in (ROOT / "docs/design.md").read_text().splitlines() if "| `" in line]
    names = [re.findall(r"`([\w/]+)`", row.split("|")[1]) for row in rows]
    return {name.rstrip("/"): level for level, row in enumerate(names) for name in row}


def module_of(path: Path) -> str:
    part = path.relative_to(ENGINE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Top name of each import, and whether it is one of engine's own."""
    depth = len(path.relative_to(ENGINE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], False
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((name.split(".")[0], True) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ENGINE)))
def test_imports_go_up(path: Path) -> None:
    table, module = levels(), module_of(path)
    assert module in table, f"docs/design.md does not list {module}"
    for name, own in imported(path):
        if own:
            level = table.get(name, table["__init__"])  # a name of engine/__init__.py itself
            assert level <= table[module], f"{module} imports {name}, which stands below it"
        else:
            assert module in CONFINED.get(name, {module}), f"{module} imports {name}"


def test_the_environment_is_read_in_settings_only() -> None:
    """Those that start other programs pass the environment on, and may."""
    readers = {module_of(p) for p in FILES if re.search(r"os\.(environ|getenv)", p.read_text())}
    assert readers <= {"settings", "allocator", "bench", "bench_worker"}
