"""Options of a command line: a rule makes them of its configuration, a script says their types."""

import argparse
import shlex
from collections.abc import Iterator, Mapping
from typing import Any


def options(section: Mapping[str, Any], *names: str) -> str:
    """Those of a section that are named, or all: {learning_rate: 1} becomes --learning-rate 1.

    A list becomes several values, true the option alone, false nothing; a section inside of it
    options that begin with its name: {published: {ir: x}} becomes --published-ir x.
    """
    return shlex.join(word for name in names or section for word in _words(name, section[name]))


def _words(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from _words(f"{name}_{part}", inner)
    elif not isinstance(value, bool):
        values = value if isinstance(value, list | tuple) else [value]
        yield from [_option(name), *map(str, values)]
    elif value:
        yield _option(name)


def add_options(parser: argparse.ArgumentParser, **types: type | list[type]) -> None:
    """Options that have to be given, by the names of their keys; [int] takes several values, bool
    is an option alone.
    """
    for name, kind in types.items():
        if kind is bool:
            parser.add_argument(_option(name), action="store_true")
        elif isinstance(kind, list):
            parser.add_argument(_option(name), type=kind[0], nargs="*", required=True)
        else:
            parser.add_argument(_option(name), type=kind, required=True)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
