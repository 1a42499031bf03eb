"""Sparse, quantised Transformers on CPUs, run with kernels written in Python.

import engine
session = engine.load("int8.onnx", threads=1)  # or an IR folder
session.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})["logits"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .codegen import isa
from .errors import EngineError

if TYPE_CHECKING:
    from .runtime import Session, load
    from .runtime.inference_session import InferenceSession
    from .runtime.io_binding import IOBinding

__all__ = ["EngineError", "IOBinding", "InferenceSession", "Session", "isa", "load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """What runs models is imported when it is asked for: those that only read or write files need
    neither LLVM nor onnx."""
    if name in ("IOBinding", "InferenceSession"):
        from .runtime import inference_session

        return getattr(inference_session, name)
    if name in ("Session", "load"):
        from . import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
