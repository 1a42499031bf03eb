"""What a core can do at most: products in registers, bytes from its second-level cache; its clock.

params: 0 address of memory of at least `BYTES` bytes; end: turns of the loop.
"""

import numba as nb

from ..simd import (
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

BYTES = (
    1 << 18
)  # read in a turn of `read`: more than first-level caches hold, less than second-level ones
MACS = {"u8": 4, "bf16": 2, "f32": 1}  # multiply-adds of a lane in one product


CHAINS = (
    12  # registers of sums that do not wait for one another: enough to cover the longest latency
)


def peak(what, lanes):
    """CHAINS products a turn, all with the same weights: another four bytes every turn."""
    kind = "i32" if what == "u8" else "f32"

    def some(count):
        width = lanes * count
        x = {
            "u8": loads("u8", 4 * width),
            "bf16": loads("bf16", 2 * width),
            "f32": loads("f32", width),
        }[what]
        return loads(kind, width), x, splats("f32", width)

    sums, load, splat = some(8)  # a vector's registers are a power of two
    more_sums, more_load, more_splat = some(4)

    def kernel(params, context, begin, end):
        at = load_i64(params)
        p, x = sums(at), load(at + 1024)
        q, y = more_sums(at + 2048), more_load(at + 3072)
        for turn in range(end):
            weights = at + 4 * (turn & 15)
            if what == "u8":
                p, q = dot4(p, x, load_i32(weights)), dot4(q, y, load_i32(weights))
            elif what == "bf16":
                p, q = dot2_bf16(p, x, load_i32(weights)), dot2_bf16(q, y, load_i32(weights))
            else:
                p, q = fma(x, splat(load_f32(weights)), p), fma(y, more_splat(load_f32(weights)), q)
        store(at + 4096, p)
        store(at + 5120, q)

    return kernel


def read(lanes):
    """BYTES bytes a turn, eight registers at a time."""
    load, piece = loads("i32", 8 * lanes), 32 * lanes

    def kernel(params, context, begin, end):
        at = load_i64(params)
        total = load(at)
        for _ in range(end):
            for place in range(0, BYTES, piece):
                total = add(total, load(at + place))
        store(at, total)

    return kernel


def clock():
    """The time stamp counter, to slot 0 of params."""

    def kernel(params, context, begin, end):
        store_unaligned(params, nb.int64(cycles()))

    return kernel
