"""What a run leaves behind while it goes: checkpoints to resume from, and lines of metrics.

All files are written under another name and renamed, so a killed run leaves whole ones.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workflow.rulebook.tables import write_table
from workflow.rulebook.writing import whole

log = logging.getLogger("sparsify")


def identity(options: Mapping[str, object], *arrays: np.ndarray) -> str:
    """A hash of options (files left out: their content counts, as arrays) and of arrays."""
    kept = {name: value for name, value in options.items() if not isinstance(value, Path)}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=list).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path, same: str) -> dict[str, Any] | None:
    """The state written last; None if there is none, or if it has another identity."""
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    if state["identity"] == same:
        return state
    log.info("%s belongs to other settings or data: starting anew", path)
    return None


def write_checkpoint(path: Path, same: str, state: Mapping[str, Any]) -> None:
    """`state` may hold tensors, numbers, text, and lists and dicts of them."""
    with whole(path) as partial:
        torch.save({**state, "identity": same}, partial)


def write_metrics(path: Path, rows: Sequence[dict]) -> None:
    """All lines anew: after a resume the file holds no line of the abandoned steps."""
    write_table(path, pd.DataFrame(rows).astype(str))  # a loss may be nan


def log_progress() -> None:
    """Progress lines to stderr, which the rules send to their log file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
