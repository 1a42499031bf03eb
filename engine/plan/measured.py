"""What was measured on this CPU: which kernel runs a Linear, how many tokens a pack holds.

One file per CPU, instruction set and version of the kernels, JSON behind the digest of `cache`.
Nothing is there until `engine tune` or ENGINE_TUNE=1 measured it; without it
a plan follows the graph's patterns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..codegen.compile import source_hash
from ..codegen.isa import Isa, cpu_model
from ..files import cache

__all__ = ["Configuration", "Layer", "Measured", "read_measured"]


@dataclass(frozen=True)
class Layer:
    """What a configuration depends on."""

    precision: str
    pattern: str
    outputs: int
    inputs: int
    lanes: int
    percent_zero: int

    def __str__(self) -> str:
        shape = f"{self.outputs}x{self.inputs}, {self.lanes} lanes"
        return f"{self.precision} {self.pattern} {shape}, {self.percent_zero} % zeros"


@dataclass(frozen=True)
class Configuration:
    """How a Linear runs; every pattern's kernel gives the same result."""

    pattern: str
    width: int  # tokens of a register block; 0: as many as registers hold


@dataclass
class Measured:
    """The table of one CPU; layers by Layer's text, packs by the signature of a plan."""

    path: Path | None
    about: dict[str, str]
    layers: dict[str, Configuration] = field(default_factory=dict)
    packs: dict[str, int] = field(default_factory=dict)  # tokens

    def write(self) -> bool:
        """Whether it could be kept.  Several processes may tune at once, the last one's stay."""
        layers = {name: asdict(each) for name, each in self.layers.items()}
        content = {"about": self.about, "layers": layers, "packs": self.packs}
        return cache.write(self.path, json.dumps(content, indent=1).encode())


def read_measured(isa: Isa) -> Measured:
    """Those of this CPU; an unreadable file counts as none."""
    about = {"cpu_model": cpu_model(), "isa": isa.name, "kernels": source_hash()[:16]}
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    found = Measured(cache.place("choices", f"{name}.json"), about)
    try:
        content: Mapping[str, Any] = json.loads(cache.read(found.path) or b"{}")
        layers = content["layers"].items()
        found.layers.update({key: Configuration(**value) for key, value in layers})
        found.packs.update({key: int(tokens) for key, tokens in content["packs"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Measured(found.path, about)
    return found
