"""An operator is declared once: no list of operators stands beside their rows.

What a pass or a plan does with an operator is a rule of its own, a function in a table of that
stage; which operators a rule is for is told by their traits and their declared inputs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.graph import Node
from engine.ops import OPERATORS, Trait, kinds
from engine.ops.operators import DECLARED

ENGINE = Path(__file__).parents[1] / "engine"
ROWS = (
    "convolution",
    "elementwise",
    "fused",
    "operators",
    "product",
    "quantized",
    "reduce",
    "shape",
)
FILES = sorted(set(ENGINE.rglob("*.py")) - {ENGINE / "ops" / f"{name}.py" for name in ROWS})
KINDS = {str(row) for row in OPERATORS}
MOST = 2  # an exception may name so many


def lists_of_operators(tree: ast.AST) -> Iterator[int]:
    """Lines of sets, lists and tuples of strings that name more operators; of dictionaries that do
    so and whose values are no functions.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            parts = node.elts
        elif isinstance(node, ast.Dict) and all(map(is_plain, node.values)):
            parts = [key for key in node.keys if key is not None]
        else:
            continue
        named = [each.value for each in parts if isinstance(each, ast.Constant)]
        if len(KINDS.intersection(map(str, named))) > MOST:
            yield node.lineno


def is_plain(value: ast.expr) -> bool:
    return not isinstance(value, ast.Name | ast.Lambda | ast.Call)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ENGINE)))
def test_there_is_no_second_list(path: Path) -> None:
    lines = list(lists_of_operators(ast.parse(path.read_text(encoding="utf-8"))))
    assert not lines, f"{path.relative_to(ENGINE)}, lines {lines}: a trait of the rows would say so"


@pytest.mark.parametrize(
    "source",
    [
        'A = {"Add", "Mul", "Div"}',
        'A = {"Add": 1, "Mul": 2, "Div": 3}',
        'x in ("Add", "Mul", "Sub")',
    ],
)
def test_a_second_list_is_found(source: str) -> None:
    assert list(lists_of_operators(ast.parse(source)))


def test_traits_say_what_holds() -> None:
    assert {"Add", "Tanh", "QuantizeLinear"} <= kinds(Trait.EACH | Trait.TAME)
    assert "Div" in kinds(Trait.EACH) - kinds(Trait.TAME)
    assert "Gather" in kinds(Trait.MOVES) - kinds(Trait.VIEWS)


@pytest.mark.parametrize("row", DECLARED.values(), ids=lambda row: row.name)
def test_inputs_have_the_names_of_the_row(row) -> None:
    names = [each.name for each in row.inputs]
    node = Node(row.name, tuple(names), ("y",), domain="engine")
    assert [getattr(node, name) for name in names] == names
    assert node.changed(inputs=tuple(names[:-1])).__getattr__(names[-1]) == ""
    with pytest.raises(AttributeError, match=f"no input 'wrong': {names[0]}"):
        _ = node.wrong
