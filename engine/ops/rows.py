"""All operators: ONNX's, some of com.microsoft's, and our own."""

from __future__ import annotations

from ..errors import UnsupportedError
from . import convolution, elementwise, fused, product, quantized, reduce, shape
from .table import Operator, Trait

__all__ = ["OPERATORS", "find", "kinds", "supported"]

OPERATORS: tuple[Operator, ...] = tuple(
    row
    for module in (elementwise, shape, reduce, product, convolution, quantized, fused)
    for row in module.OPERATORS
)

_VERSIONS: dict[tuple[str, str], list[Operator]] = {}
for _row in sorted(OPERATORS, key=lambda row: row.since):
    _VERSIONS.setdefault((_row.domain, _row.name), []).append(_row)


def kinds(traits: Trait) -> frozenset[str]:
    """Node.kind of the operators that have all these traits."""
    return frozenset(str(row) for row in OPERATORS if traits in row.traits)


def find(domain: str, name: str, opset: int) -> Operator:
    """The row that counts at an opset.

    Raises:
        UnsupportedError: there is none; the message lists the domain's operators.
    """
    rows = [row for row in _VERSIONS.get((domain, name), []) if row.since <= opset]
    if not rows:
        shown = f"{domain}.{name}" if domain else name
        raise UnsupportedError(
            f"operator {shown} is not supported; supported: {', '.join(supported(domain))}"
        )
    return rows[-1]


def supported(domain: str = "") -> list[str]:
    """Names of a domain's operators; those of ONNX's own where the domain is unknown."""
    names = sorted(name for where, name in _VERSIONS if where == domain)
    return names or supported("")
