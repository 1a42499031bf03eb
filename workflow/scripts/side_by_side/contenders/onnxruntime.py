"""ONNX Runtime, CPU provider, as it comes out of the box."""

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime

from workflow.scripts.convert import onnx_runtime

Feed = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def _session(model: str, threads: int, exact: bool) -> Any:
    return onnx_runtime.session(model, threads=threads, exact=exact)


def prepare(model: str, threads: int, feed: Feed, *, exact: bool = False) -> Any:
    session = _session(model, threads, exact)
    names = {value.name for value in session.get_inputs()}
    return session, {name: array for name, array in feed.items() if name in names}


def run(prepared: Any) -> np.ndarray:
    session, feed = prepared
    return session.run(None, feed)[0]


def facts(prepared: Any) -> dict[str, Any]:
    return {"version": onnxruntime.__version__}
