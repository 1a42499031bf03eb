"""The machine code of every kernel on every instruction set, as digests: before and after a change
that must not touch it.

    python -m tests.kernels.object_code before.json      # writes them
    python -m tests.kernels.object_code after.json --against before.json

Digests are of the sections that hold code and constants: names of symbols may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from engine.codegen import compile as compiler
from engine.codegen import isa as instruction_sets
from engine.codegen.isa import Isa
from engine.errors import IsaError
from engine.kernels import KERNELS, kernel_name
from tests.test_cross_compile import can_be, function, variants

KEPT = (".text", ".ltext", ".rodata", ".lrodata")  # how names begin; JIT code is in .ltext
SECTIONS = "sections"  # the key under which a file says what its digests are of


def every(names: list[str]) -> Iterator[tuple[str, Isa, tuple[Any, ...]]]:
    """Kernels in their variants, on the sets that can hold them."""
    for name in names:
        for isa in instruction_sets.LADDER:
            if not can_be(name, isa):
                continue
            for variant in variants(name, isa):
                yield name, isa, variant


def digest(code: bytes) -> str:
    found = hashlib.sha256()
    for section in llvm.ObjectFileRef.from_data(code).sections():
        if (section.name() or b"").decode().startswith(KEPT):
            found.update(section.data())
    return found.hexdigest()[:16]


def digests(names: list[str]) -> dict[str, str]:
    """By kernel and set; those that a set cannot have (amx_dot_bf16 on amx_int8) are left out."""
    found = {}
    for name, isa, variant in every(names):
        full = kernel_name(name, *variant)
        try:
            code = compiler.object_code(full, lambda n=name, v=variant: function(n, v), isa)
        except IsaError as error:
            found[f"{full} {isa.name}"] = f"none: {str(error)[:60]}"
            continue
        found[f"{full} {isa.name}"] = digest(code)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--against", type=Path, help="digests of before: what differs is listed")
    parser.add_argument("--only", default="", help="kernels whose names contain this")
    arguments = parser.parse_args()
    names = [name for name in KERNELS if arguments.only in name]
    found: dict[str, str] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number, part in enumerate(pool.map(digests, ([name] for name in names)), 1):
            found.update(part)
            print(f"{number} of {len(names)} kernels", file=sys.stderr, flush=True)
    found[SECTIONS] = " ".join(KEPT)
    arguments.output.write_text(json.dumps(found, indent=0))
    if not arguments.against:
        return 0
    before = json.loads(arguments.against.read_text())
    if before.pop(SECTIONS, None) != found.pop(SECTIONS):
        parser.error(f"{arguments.against} has digests of other sections: make them again")
    before = {key: value for key, value in before.items() if arguments.only in key.split()[0]}
    other = sorted(key for key in {*before, *found} if before.get(key) != found.get(key))
    print(f"{len(found)} codes, {len(other)} differ", *other, sep="\n  ")
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
