"""Sparse, quantised Transformers on CPUs, run with kernels written in Python.

import engine
session = engine.load("int8.onnx", threads=1)  # or an IR folder
session.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})["logits"]
"""

from __future__ import annotations

from . import isa
from .errors import EngineError
from .inference_session import InferenceSession
from .runtime import Session, load

__all__ = ["EngineError", "InferenceSession", "Session", "isa", "load"]
__version__ = "0.1.0"
