"""Values of a configuration as options of a command line."""

from collections.abc import Mapping
from typing import Any


def options(section: Mapping[str, Any], *names: str) -> str:
    """Those of a section that are named: {learning_rate: 1} becomes --learning-rate 1."""
    values = [(name, section[name]) for name in names]
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values)
