"""A plan at work: workers, their memory, and the call."""

from __future__ import annotations

from .session import Session, load

__all__ = ["Session", "load"]
