"""Memory that Python and kernels share is read and written by the names of its records,
never by a number: shown on the syntax tree of every file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "engine"
FILES = sorted(ENGINE.rglob("*.py"))
ALWAYS = {"params", "context"}  # what every kernel is called with
ACCESS = ("load", "store", "prefetch", "exchange", "fetch_add")
FILLED = {"call", "control", "step", "room", "block", "header"}  # arrays in Python's hands


def is_field(node: ast.expr) -> bool:
    """Whether it is RECORD.field."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id.isupper()
    )


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def sums(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Both operands of every sum, and of differences, in either order."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            yield node.left, node.right
            yield node.right, node.left


def blocks_of(function: ast.AST) -> set[str]:
    """Names of addresses to which a function adds a field of a record, and what kernels get."""
    given = {each.arg for each in ast.walk(function) if isinstance(each, ast.arg)}
    named = {
        left.id for left, right in sums(function) if isinstance(left, ast.Name) and is_field(right)
    }
    return named | (given & ALWAYS)


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def numbered(tree: ast.AST) -> Iterator[int]:
    """Lines that reach into a shared block without a name."""
    for function in functions(tree):
        yield from numbered_addresses(function, blocks_of(function))
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and name_of(node.value) in FILLED:
            place = node.slice
            parts = [place.lower, place.upper] if isinstance(place, ast.Slice) else [place]
            if any(part is not None and is_number(part) for part in parts):
                yield node.lineno


def numbered_addresses(function: ast.AST, blocks: set[str]) -> Iterator[int]:
    for left, right in sums(function):
        if isinstance(left, ast.Name) and left.id in blocks and is_number(right):
            yield left.lineno
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            first = node.args[0]
            bare = isinstance(first, ast.Name) and first.id in blocks
            if bare and node.func.id.startswith(ACCESS):
                yield node.lineno


def name_of(node: ast.expr) -> str:
    name = getattr(node, "attr", getattr(node, "id", ""))
    return str(name).lstrip("_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ENGINE)))
def test_nothing_is_reached_by_a_number(path: Path) -> None:
    lines = sorted(set(numbered(ast.parse(path.read_text(encoding="utf-8")))))
    assert not lines, f"{path.relative_to(ENGINE)}, lines {lines}: a record's field has a name"


@pytest.mark.parametrize(
    "source",
    [
        "def kernel(params, context, begin, end): return load_i64(params + 16)",
        "def kernel(params, context, begin, end): return load_i64(context)",
        "def f(at): return load_i64(at + CALL.ids) + load_int(8 + at)",
        "def f(at): store(at, load_i64(at + CALL.ids))",
        "self._call[15:19] = 0",
        "control[3] += 1",
    ],
)
def test_a_number_is_found(source: str) -> None:
    assert list(numbered(ast.parse(source)))


def test_names_are_let_through() -> None:
    source = "def f(at, x): return load_i64(at + CALL.ids) + load_i64(x + 8) + load_i64(x)"
    assert not list(numbered(ast.parse(source)))
