"""Rows of strings as lines of text, or of Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["as_markdown", "as_text"]


def as_text(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ("name", "kernel")
) -> str:
    """Columns under their heads, numbers at the right; those named in `left` at the left."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join(
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def as_markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ("name", "kernel")
) -> str:
    rule = ["---" if name in left else "---:" for name in head]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *rows))
