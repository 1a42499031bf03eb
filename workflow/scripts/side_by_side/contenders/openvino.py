"""OpenVINO, compiled for the shape."""

from typing import Any

import numpy as np
import openvino

Feed = dict[str, np.ndarray]


def prepare(model: str, threads: int, feed: Feed) -> Any:
    core = openvino.Core()
    read = core.read_model(model)
    names = [value.get_any_name() for value in read.inputs]
    read.reshape({name: list(feed[name].shape) for name in names})
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(read, "CPU", options).create_infer_request()
    return request, {name: feed[name] for name in names}


def run(prepared: Any) -> np.ndarray:
    request, feed = prepared
    return request.infer(feed)[0]


def facts(prepared: Any) -> dict[str, Any]:
    return {"version": openvino.__version__}
