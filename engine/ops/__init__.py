"""The meaning of every operator, in NumPy: ONNX's, some of com.microsoft's, and our own ("engine").

Tests, constant folding, ENGINE_CHECK and the run of what no kernel covers use these functions.
"""

from __future__ import annotations

from .finite import NotFinite, not_finite
from .fused import activation_of
from .operators import is_quantization
from .rows import OPERATORS, find, kinds, supported
from .sound import checked, fits_meaning
from .table import TYPES, Operator, Trait

__all__ = [
    "OPERATORS",
    "TYPES",
    "NotFinite",
    "Operator",
    "Trait",
    "activation_of",
    "checked",
    "find",
    "fits_meaning",
    "is_quantization",
    "kinds",
    "not_finite",
    "supported",
]
