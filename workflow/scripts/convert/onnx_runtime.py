"""ONNX Runtime as a reference: its integer products exact on every CPU.

Without VNNI its kernels for uint8 x int8 add pairs of products in 16 bits, which saturates: an int8
model then has other numbers than its file says. The option EXACT has it turn such products into
uint8 x uint8, whose kernels are exact, where the CPU lacks VNNI; elsewhere it changes nothing. The
turning is one of its optimisations of level "extended" and needs weights that are constants: a
session below that level, or with a product of two inputs, saturates all the same.

Source: docs/performance/model-optimizations/quantization.md of ONNX Runtime; the option is declared
in its onnxruntime_session_options_config_keys.h.
"""

from pathlib import Path
from typing import Any

import onnxruntime

EXACT = ("session.x64quantprecision", "1")
LEVELS = onnxruntime.GraphOptimizationLevel


def session(
    model: Path | str | bytes,
    *,
    threads: int = 0,
    exact: bool = True,
    level: Any = LEVELS.ORT_ENABLE_ALL,
) -> onnxruntime.InferenceSession:
    """A session on the CPU; threads 0: as many as it likes; not exact: as it comes out of the
    box."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = level
    if exact:
        options.add_session_config_entry(*EXACT)
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
