"""Outputs that appear whole or not at all, and a main that tells a user's mistake in one line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.files.replacing import whole as whole


class StepError(Exception):
    """A step cannot be done; the message is one line that names the file or key."""


def write_json(path: str | Path, content: Any) -> None:
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def run_main(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    *expected: type[Exception],
) -> None:
    """Parse the command line, run, and turn expected errors into one line and status 1; a disk that
    is full or a file that cannot be read is always expected.
    """
    try:
        main(parser.parse_args())
    except Exception as error:
        if not isinstance(error, (StepError, OSError, *expected)):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
