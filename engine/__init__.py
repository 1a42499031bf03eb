"""Sparse, quantised Transformers on CPUs: reads ONNX and IR, finds structured sparsity, runs it with kernels written in Python."""

from __future__ import annotations

__version__ = "0.1.0"
