"""What a core can do at most: products in registers, bytes from its second-level cache; its clock;
what waiting for one another costs several.

params: PEAK, CLOCK; end: turns of the loop.
"""

import numba as nb

from ..codegen.simd import (
    add,
    cycles,
    dot2_bf16,
    dot4,
    fma,
    load_f32,
    load_i32,
    load_i64,
    loads,
    splats,
    store,
    store_unaligned,
)
from .executor.sharing import wait_for_all
from .params import CLOCK, PEAK

# read in a turn of `read`: more than first-level caches hold, less than second-level ones
BYTES = 1 << 18
MACS = {"u8": 4, "bf16": 2, "f32": 1}  # multiply-adds of a lane in one product


def chains(lanes):
    """Registers of sums that do not wait for one another: as many as leave room for operands."""
    return 16 if lanes == 16 else 8  # of 32 registers, of 16


def peak(what, lanes):
    """`chains` products a turn, all with the same weights: another four bytes every turn."""
    width = lanes * chains(lanes) // 2  # the same operands serve both halves of the sums
    sums, splat = loads("i32" if what == "u8" else "f32", width), splats("f32", width)
    load = {
        "u8": loads("u8", 4 * width),
        "bf16": loads("bf16", 2 * width),
        "f32": loads("f32", width),
    }[what]

    def kernel(params, context, begin, end):
        at = load_i64(params + PEAK.memory)
        p, q, x = sums(at), sums(at + 1024), load(at + 2048)
        for turn in range(end):
            weights = at + 4 * (turn & 15)
            if what == "u8":
                p, q = dot4(p, x, load_i32(weights)), dot4(q, x, load_i32(weights))
            elif what == "bf16":
                p, q = dot2_bf16(p, x, load_i32(weights)), dot2_bf16(q, x, load_i32(weights))
            else:
                w = splat(load_f32(weights))
                p, q = fma(x, w, p), fma(x, w, q)
        store(at + 4096, p)
        store(at + 5120, q)

    return kernel


def read(lanes):
    """BYTES bytes a turn, eight registers at a time."""
    load, piece = loads("i32", 8 * lanes), 32 * lanes

    def kernel(params, context, begin, end):
        at = load_i64(params + PEAK.memory)
        total = load(at)
        for _ in range(end):
            for place in range(0, BYTES, piece):
                total = add(total, load(at + place))
        store(at, total)

    return kernel


def clock():
    """The time stamp counter, to its place in CLOCK."""

    def kernel(params, context, begin, end):
        store_unaligned(params + CLOCK.cycles, nb.int64(cycles()))

    return kernel


def barrier():
    """`end` barriers of `begin` workers; the counter is the memory's first word."""

    def kernel(params, context, begin, end):
        counter, arrivals = load_i64(params + PEAK.memory), nb.int64(0)
        for _ in range(end):
            arrivals += begin
            wait_for_all(counter, arrivals)

    return kernel
