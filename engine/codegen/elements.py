"""Types of numbers in kernels, by the names that vectors, buffers and variants have for them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BYTES", "DTYPES", "MAGIC", "MAGIC_BITS"]

DTYPES: dict[str, np.dtype[Any]] = {  # as NumPy reads them; it has no bfloat16
    "u8": np.dtype(np.uint8),
    "s8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "bf16": np.dtype(np.uint16),
    "i32": np.dtype(np.int32),
    "f32": np.dtype(np.float32),
}
BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}  # of one

# MAGIC + n, |n| < 2^22, is a float whose low bits are the integer n: the addition rounds to nearest
# even, no conversion is needed.
MAGIC, MAGIC_BITS = 12582912.0, 0x4B400000
