"""What docs/adding.md says of an instruction set, done: x86 before AVX.

The row of LADDER, and bodies for what these CPUs have instructions for; everything else is plain
LLVM, for registers of 128 bits.
"""

from __future__ import annotations

import llvmlite.ir as ir

from engine.codegen.isa import Isa
from engine.codegen.simd import products
from engine.codegen.simd.vectors import I32, call

ROW = Isa("sse41", needs=("ssse3", "sse4_1"), features=("ssse3", "sse4.1"), width=128)


def pmaddwd(b, isa, x, w):
    return call(b, "llvm.x86.sse2.pmadd.wd", ir.VectorType(I32, x.type.count // 2), x, w)


def declare() -> None:
    """A file of the engine would have this as a decorator."""
    products.sums_of_pairs.on("sse4.1", elements=(8,))(pmaddwd)
