"""ONNX Runtime, CPU provider."""

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime

Feed = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def _session(model: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def prepare(model: str, threads: int, feed: Feed) -> Any:
    session = _session(model, threads)
    names = {value.name for value in session.get_inputs()}
    return session, {name: array for name, array in feed.items() if name in names}


def run(prepared: Any) -> np.ndarray:
    session, feed = prepared
    return session.run(None, feed)[0]


def facts(prepared: Any) -> dict[str, Any]:
    return {"version": onnxruntime.__version__}
