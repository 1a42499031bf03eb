"""Products on bytes whose x is interleaved beforehand: nothing is shuffled in the loop.

    dense_dot_u8s8        all inputs
    sparse_dot_u8s8_1x4   blocks of 1 output x 4 inputs: a quad of x is what a block reads

interleave_rows makes [piece][input / 4][token][4] once a tile.  A piece is `width` tokens in quad
order: 64 on 512 bits, 32 where only half a tile of x fits the first-level cache, 16 (where quad
order is token order) on fewer bits.  A unit is (tile, part); params, parts' rows and records are
those of linear.py, and so are the epilogues; headers, offsets and weights those of pack.py.

interleave_rows: a unit is a tile; params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile,
4 inputs.  Its y has 4 * ceil(inputs / 4) rows; a last quad that is not whole repeats an input.
"""

from ..lower import routine
from ..simd import dot4, interleave, load_four, load_i32, load_i64, loads, splats, spreads, store
from .context import ARENA
from .linear import EPILOGUES

SIZE = {"table": 1, "plain": 1, "bytes": 1, "floats": 4, "rounded": 4}  # bytes of a result


def interleave_rows(lanes, width):
    """See the head of the file."""
    load = loads("u8", width)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + ARENA), load_i64(params + 32)
        whole, last = inputs // 4 * 4, lanes * (inputs - 1)
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for token in range(x, x + lanes, width):
                for k in range(0, whole, 4):
                    at = token + lanes * k
                    p, q = load(at), load(at + lanes)
                    r, s = load(at + 2 * lanes), load(at + 3 * lanes)
                    store(y, interleave(p, q, r, s))
                    y += 4 * width
                if whole < inputs:
                    at, top = token + lanes * whole, token + last
                    p, q = load(at), load(min(at + lanes, top))
                    r, s = load(min(at + 2 * lanes, top)), load(top)
                    store(y, interleave(p, q, r, s))
                    y += 4 * width

    return kernel


def finish_at(lanes, width, epilogue, activation):
    """An epilogue on `width` of the `lanes` tokens of a row."""
    finish, gap = EPILOGUES[epilogue](width, activation), SIZE[epilogue] * (lanes - width)

    def place(out, sums, record, n, table, params):
        finish(out + gap * n, sums, record, n, table, params)

    return routine(place)


def dense_dot_u8s8(lanes, width, epilogue, activation):
    """4 outputs share each load of x."""
    finish, size = finish_at(lanes, width, epilogue, activation), SIZE[epilogue]
    splat, load = splats("i32", width), loads("u8", 4 * width)

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source = x + tile * x_tile + x_tile * token // lanes
                target = y + tile * y_tile + size * token
                headers, weights = load_i64(part + 8), load_i64(part + 24)
                record, table = load_i64(part + 32), load_i64(part + 40)
                for _ in range(load_i64(part)):
                    a, b = splat(load_i32(record + 16)), splat(load_i32(record + 20))
                    c, d = splat(load_i32(record + 24)), splat(load_i32(record + 28))
                    at = source
                    for _ in range(load_i32(headers)):
                        v = load(at)
                        a, b = dot4(a, v, load_i32(weights)), dot4(b, v, load_i32(weights + 4))
                        c, d = dot4(c, v, load_i32(weights + 8)), dot4(d, v, load_i32(weights + 12))
                        at, weights = at + 4 * width, weights + 16
                    out = target + load_i32(headers + 4)
                    finish(out, a, record, 0, table, params)
                    finish(out, b, record, 1, table, params)
                    finish(out, c, record, 2, table, params)
                    finish(out, d, record, 3, table, params)
                    headers, record, table = headers + 8, record + 64, table + 1024

    return kernel


def sparse_dot_u8s8_1x4(lanes, width, epilogue, activation):
    """A step takes a block of each of 4 outputs, whose sums do not wait for one another."""
    finish, size = finish_at(lanes, width, epilogue, activation), SIZE[epilogue]
    splat, load = splats("i32", width), loads("u8", 4 * width)
    first, second, third, fourth = (spreads(n, width) for n in range(4))
    stretch = width // 2  # 8 * (input / 4) -> bytes

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source = x + tile * x_tile + x_tile * token // lanes
                target = y + tile * y_tile + size * token
                headers, offsets = load_i64(part + 8), load_i64(part + 16)
                weights, record, table = (
                    load_i64(part + 24),
                    load_i64(part + 32),
                    load_i64(part + 40),
                )
                for _ in range(load_i64(part)):
                    a, b = splat(load_i32(record + 16)), splat(load_i32(record + 20))
                    c, d = splat(load_i32(record + 24)), splat(load_i32(record + 28))
                    for _ in range(load_i32(headers)):
                        at, four = load_i64(offsets), load_four(weights)
                        a = dot4(a, load(source + stretch * (at & 0xFFFF)), first(four))
                        b = dot4(b, load(source + stretch * (at >> 16 & 0xFFFF)), second(four))
                        c = dot4(c, load(source + stretch * (at >> 32 & 0xFFFF)), third(four))
                        d = dot4(d, load(source + stretch * (at >> 48 & 0xFFFF)), fourth(four))
                        offsets, weights = offsets + 8, weights + 16
                    finish(target + load_i32(headers + 4), a, record, 0, table, params)
                    finish(target + load_i32(headers + 8), b, record, 1, table, params)
                    finish(target + load_i32(headers + 12), c, record, 2, table, params)
                    finish(target + load_i32(headers + 16), d, record, 3, table, params)
                    headers, record, table = headers + 32, record + 64, table + 1024

    return kernel
