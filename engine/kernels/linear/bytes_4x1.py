"""Block-sparse products on bytes: y[n, t] = f_n(sum over k of w[n, k] x[k, t]), x u8, w s8 in
blocks of 4 outputs x 1 input, a whole tile of tokens in registers.

The four rows of x that a step's four blocks read are interleaved in registers and serve four
outputs: 8 unpackings for 16 dot4 (512 bits).  A unit is (tile, part).  Parameters: LINEAR; a part's
groups have a HEADER each, u16 offsets 8 * input, 4 a step, and weights [4 outputs][4 inputs].
"""

from ...codegen.lower import routine
from ...codegen.simd import dot4, interleave, load_i32, load_i64, load_offsets, loads, splats
from .epilogues import epilogue_of
from .loop import groups_4x1, product, times_four
from .records import HEADER, HEADER_BYTES, OUTPUT, OUTPUT_BYTES, PART


def gathers(lanes, width):
    """A routine (x, 4 offsets): `width` bytes of four rows, interleaved, in quad order."""
    load = loads("u8", width)
    stretch = lanes // 8  # offsets count in units of 8 bytes of a 64-token row

    def gather(x, offsets):
        p, q, r, s = load_offsets(offsets)
        return interleave(
            load(x + stretch * p),
            load(x + stretch * q),
            load(x + stretch * r),
            load(x + stretch * s),
        )

    return routine(gather)


def sparse_dot_u8s8_4x1(lanes, epilogue, activation):
    """A block is a whole tile, or as many tokens as it has."""

    def made(width):
        return gathers(lanes, width), times_four(dot4, load_i32)

    def groups(width):
        if width == lanes:
            return _groups_ahead(lanes, epilogue, activation)
        return groups_4x1(made, 8, (lanes, lanes, epilogue, activation), "quads", width)

    return product(groups, 1, lanes, lanes, epilogue)


def _groups_ahead(lanes, epilogue, activation):
    """groups_of a whole tile.  A group begins while the one before it ends, whose epilogue waits
    for its sums: the core has other products to do.
    """
    finish = epilogue_of(lanes, lanes, epilogue, activation, "quads")
    gather = gathers(lanes, lanes)
    splat = splats("i32", lanes)

    def begun(start, v, weights):
        return dot4(splat(load_i32(start)), v, load_i32(weights))

    begun = routine(begun)

    def groups(part, source, target, table):
        header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
        weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
        v, start = gather(source, offsets), record + OUTPUT.start
        a, b = begun(start, v, weights), begun(start + 4, v, weights + 4)
        c, d = begun(start + 8, v, weights + 8), begun(start + 12, v, weights + 12)
        offsets, weights = offsets + 8, weights + 16
        for _ in range(load_i64(part + PART.groups)):
            for _ in range(load_i32(header + HEADER.steps) - 1):
                v = gather(source, offsets)
                a, b = dot4(a, v, load_i32(weights)), dot4(b, v, load_i32(weights + 4))
                c, d = dot4(c, v, load_i32(weights + 8)), dot4(d, v, load_i32(weights + 12))
                offsets, weights = offsets + 8, weights + 16
            v = gather(source, offsets)  # of the next group
            out = target + load_i32(header + HEADER.output)
            start = record + OUTPUT_BYTES + OUTPUT.start
            finish(out, a, record, 0, table)
            a = begun(start, v, weights)
            finish(out, b, record, 1, table)
            b = begun(start + 4, v, weights + 4)
            finish(out, c, record, 2, table)
            c = begun(start + 8, v, weights + 8)
            finish(out, d, record, 3, table)
            d = begun(start + 12, v, weights + 12)
            offsets, weights = offsets + 8, weights + 16
            header, record = header + HEADER_BYTES, record + OUTPUT_BYTES

    return routine(groups)
