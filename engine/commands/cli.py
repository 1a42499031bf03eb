"""`python -m engine <command> ...`: a row per command; its module is imported when it is asked for.

An EngineError becomes one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

from .. import __version__, settings
from ..errors import EngineError
from .waiting import told

__all__ = ["COMMANDS", "main"]

SILENT: AbstractContextManager[None] = nullcontext()
LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
COMMANDS = {  # name of the command and of its module in commands/ -> help
    "accuracy": "classify labelled sentences and count what is right",
    "cache": "what is kept on disk: compiled kernels, packed weights; empties it",
    "bench": "time a model: latency, sentences per second, on any number of cores",
    "compare": "two models step by step: where they part first",
    "compile": "ONNX file to IR folder",
    "inspect": "layers of a model: shape, type, pattern, zero ratio, kernel, bytes",
    "memory": "what instances of a model take together, and how often the weights are in it",
    "isa": "instruction sets: what this CPU has and what the engine uses",
    "kernels": "products alone: time, multiply-adds a second, share of the peak of their type",
    "profile": "where the time of a call goes: steps, multiply-adds, bytes, share of the peak",
    "warm": "compile, measure and pack all that a model needs, before it is needed",
    "tune": "measure kernels for a model's layers on this CPU and keep the choice",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for an EngineError or a wrong command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="engine",
        description=import_module("engine").__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # its example stays as written
    )
    parser.add_argument("--version", action="version", version=f"engine {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in words[:1]:  # the others' modules need not be imported
            import_module(f"engine.commands.{name}").add_arguments(command)
    arguments = parser.parse_args(words)
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        chosen = settings.current()
        logging.getLogger().setLevel(LEVELS[chosen.log])
        command = arguments.command
        with told(f"engine {command}, at work: {COMMANDS[command]}") if chosen.log < 2 else SILENT:
            status: int = import_module(f"engine.commands.{command}").main(arguments)
        sys.stdout.flush()
        return status
    except EngineError as error:
        sys.stderr.write(f"engine: {' '.join(str(error).split())}\n")
        return 2
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
