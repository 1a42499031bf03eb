"""Calls of kernels, counters that threads share, waiting: what the run itself needs."""

from __future__ import annotations

import llvmlite.ir as ir
import numba as nb
from numba.core import cgutils
from numba.extending import intrinsic

from ..lower import instruction
from ..lowering import lowering
from .vectors import I32, I64, pointer_to


@intrinsic
def call_kernel(typing, address, params, context, begin, end):
    """void address(params, context, begin, end)."""

    def emit(ctx, b, sig, args):
        kernel = ir.FunctionType(ir.VoidType(), [I64] * 4)
        b.call(b.inttoptr(args[0], kernel.as_pointer()), args[1:])
        return ctx.get_dummy_value()

    return nb.void(*[nb.int64] * 5), emit


def _atomic(operation):
    @intrinsic
    def change(typing, address, value):
        def emit(ctx, b, sig, args):
            return b.atomic_rmw(operation, pointer_to(b, args[0], I64), args[1], "seq_cst")

        return nb.int64(nb.int64, nb.int64), emit

    return change


fetch_add, exchange = _atomic("add"), _atomic("xchg")


@intrinsic
def load_shared(typing, address):
    """An int64 that another thread may change."""
    return nb.int64(nb.int64), lambda ctx, b, sig, args: b.load_atomic(
        pointer_to(b, args[0], I64), "acquire", 8
    )


@lowering
def spin_hint(b, isa):
    """Nothing, where no instruction is known for it."""


@instruction(spin_hint)
def pause():
    """Tell the core that this is a spin loop."""
    return nb.void


@intrinsic
def cycles(typing):
    """The time stamp counter."""

    def emit(ctx, b, sig, args):
        function = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(I64, []), "llvm.readcyclecounter"
        )
        return b.call(function, [])

    return nb.int64(), emit


@intrinsic
def yield_core(typing):
    """Let another thread have the core (sched_yield of the C library)."""

    def emit(ctx, b, sig, args):
        b.call(
            cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), []
        )
        return ctx.get_dummy_value()

    return nb.void(), emit
