"""Imports go only up the table of docs/design.md, and some packages have one place only."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.ops import OPERATORS
from tests import house

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
CONFINED = {  # package -> where in engine/ it may be imported
    "onnx": {"formats/onnx_reader"},
    "yaml": {"formats/conf"},
    "numba": {"codegen", "kernels", "runtime"},
    "llvmlite": {"codegen", "kernels", "runtime"},
    "torch": set(),
    "onnxruntime": set(),
    "transformers": set(),
}
MOST_MODULES = 6  # beside the folders
PATTERNS = "passes/embedding.py"
BETWEEN_PASSES = {"engine.FakeQuantize", "engine.DynamicFakeQuantize"}
FILES = sorted(ENGINE.rglob("*.py"))


def levels() -> dict[str, int]:
    """Module or package of engine/ -> its row in the table."""
    rows = [line for line in (ROOT / "docs/design.md").read_text().splitlines() if "| `" in line]
    names = [re.findall(r"`([\w/]+)`", row.split("|")[1]) for row in rows]
    return {name.rstrip("/"): level for level, row in enumerate(names) for name in row}


def module_of(path: Path) -> str:
    part = path.relative_to(ENGINE).parts[0]
    return part.removesuffix(".py")


def place_of(path: Path) -> str:
    """Its path in engine/ without the suffix."""
    return path.relative_to(ENGINE).with_suffix("").as_posix()


@pytest.mark.parametrize("package", house.PACKAGES)
def test_nothing_imports_in_circles(package: str) -> None:
    """Imports inside functions count: none is there to break a circle."""
    assert not house.cycles(house.imports(house.modules(package)))


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert house.cycles(graph) == [["a", "b", "c"]]


def test_functions_are_short() -> None:
    """An operator's meaning takes as many arguments as the operator does, a pattern as inputs."""
    found = house.functions("engine")
    sizes = sorted(each.lines for each in found)
    assert statistics.median(sizes) <= 8 and sizes[len(sizes) * 9 // 10] <= 20
    full = ("convolution", "fused", "product", "quantized")
    meanings = (*(f"ops/{name}.py" for name in full), PATTERNS)
    many = [each.place for each in found if each.arguments > 8 and not each.is_inner]
    assert [place for place in many if not place.startswith(meanings)] == []


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
            places = CONFINED.get(name, {module})
            assert {module, place_of(path)} & places, f"{place_of(path)} imports {name}"


def test_few_modules_lie_beside_the_folders() -> None:
    modules = [path.name for path in ENGINE.glob("*.py")]
    assert len(modules) <= MOST_MODULES, modules


def test_the_environment_is_read_in_settings_only() -> None:
    """Those that start other programs pass the environment on, and may."""
    readers = {place_of(p) for p in FILES if re.search(r"os\.(environ|getenv)", p.read_text())}
    programs = {f"measure/{name}" for name in ("allocator", "instances", "instance_worker")}
    assert readers <= {"settings", *programs}


# --- operators are asked for by Node.kind ---
NAMED_ALONE = {"op", "op_type"}  # names that mean something else in every domain


def bare_names(tree: ast.AST) -> Iterator[ast.Attribute]:
    """`.op` in a comparison, as a key, or looked up: nothing there says of which domain."""
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.args if node.func.attr in ("get", "pop", "setdefault", "index") else []
        elif isinstance(node, ast.Match):
            asked = [node.subject]
        for expression in asked:
            for part in ast.walk(expression):
                if isinstance(part, ast.Attribute) and part.attr in NAMED_ALONE:
                    yield part


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ENGINE)))
def test_no_operator_is_told_by_its_name_alone(path: Path) -> None:
    """com.microsoft's Attention is not ours; the reader alone sees protocol buffers."""
    if place_of(path) == "formats/onnx_reader":
        return
    lines = [part.lineno for part in bare_names(ast.parse(path.read_text()))]
    assert not lines, f"{path.name}, lines {lines}: ask for Node.kind, which names the domain too"


@pytest.mark.parametrize(
    "source", ["x.op == 'Add'", "'Add' != n[0].op", "x.op in NAMES", "T[x.op, 1]", "T.get(x.op)"]
)
def test_a_name_alone_is_found(source: str) -> None:
    assert list(bare_names(ast.parse(source)))


def test_kinds_are_spelled_as_operators_are() -> None:
    """A slip in a name would be a rule that never fits."""
    known = {str(row) for row in OPERATORS} | BETWEEN_PASSES
    for path in FILES:
        written = re.findall(r'"((?:engine|com\.microsoft)\.[A-Z]\w+)"', path.read_text())
        assert known.issuperset(written), f"{path}: {sorted(set(written) - known)}"
