"""Instruction sets that tests can take on this CPU: all of them, some emulated."""

from __future__ import annotations

from engine.codegen.isa import LADDER, Isa, cpu_flags, detected, emulated, named

_NAMES = [isa.name for isa in LADDER]
WITHOUT_TILES = [name for name in _NAMES if not name.startswith("amx")]


def reachable(name: str, *, cap: str = "") -> Isa:
    """The set of that name; where the CPU has not all of it but tiles (which the fixture `amx`
    gives), or a cap is below it, emulated by the best that is there.
    """
    here = {isa.name: isa for isa in detected() if isa.name in WITHOUT_TILES}
    most = _NAMES.index(cap or name)
    best = [isa for isa in here.values() if _NAMES.index(isa.name) <= most][-1]
    if name in here and best.name == name:
        return best
    row = named(name)
    lacking = {flag for flag in row.needs if not flag.startswith("amx")} - cpu_flags()
    return emulated(row, best) if lacking or cap else row
