"""Every error the engine raises for a reason outside itself.

EngineError
├── ModelError            the model's file or graph: names file, place, found and expected
│   ├── UnsupportedError  an operator, type or attribute the engine does not have
│   └── IntegrityError    truncated or altered: checksum, offset or size does not fit
├── InputError            what was fed to run(): names, shapes, types, values
├── ResourceError         memory or threads that the system does not give: how much was asked
├── SettingError          an environment variable or option: its name, value and what is allowed
├── CheckError            ENGINE_CHECK=1: a step's result is not what its operator means
├── PassError             a pass left the graph unsound: pass, its number, node
└── IsaError              an instruction set that this CPU (or this build of LLVM) does not have
"""

from __future__ import annotations

__all__ = [
    "FOREIGN",
    "CheckError",
    "EngineError",
    "InputError",
    "IntegrityError",
    "IsaError",
    "ModelError",
    "PassError",
    "ResourceError",
    "SettingError",
    "UnsupportedError",
]


class EngineError(Exception):
    """Base of all errors raised on purpose; its text is one line fit to be shown to a user."""


class ModelError(EngineError):
    """A model could not be read or makes no sense."""


class UnsupportedError(ModelError):
    """A model needs something the engine does not have."""


class IntegrityError(ModelError):
    """A model's file is truncated or was altered."""


class InputError(EngineError):
    """The inputs given to a run do not fit the model."""


class ResourceError(EngineError):
    """The system does not give the memory or the threads that a call needs."""


class SettingError(EngineError):
    """A setting's value is not allowed."""


class PassError(EngineError):
    """A pass failed or left a graph that is not sound."""


class CheckError(EngineError):
    """A step made something else than its operator means."""


class IsaError(EngineError):
    """An instruction set is unknown or not available."""


FOREIGN = (
    ArithmeticError,
    AttributeError,
    BufferError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python and NumPy raise over a model that makes no sense: mapped to an error above where it
is read (readers), rewritten (passes.run) and run (reference.evaluate)."""
