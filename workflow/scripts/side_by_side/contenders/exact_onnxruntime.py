"""ONNX Runtime with exact integer products: what its int8 costs where the CPU lacks VNNI and the
numbers of the file are wanted.
"""

from typing import Any

import numpy as np

from workflow.scripts.side_by_side.contenders import onnxruntime


def prepare(model: str, threads: int, feed: onnxruntime.Feed) -> Any:
    return onnxruntime.prepare(model, threads, feed, exact=True)


def run(prepared: Any) -> np.ndarray:
    return onnxruntime.run(prepared)


def facts(prepared: Any) -> dict[str, Any]:
    return onnxruntime.facts(prepared)
