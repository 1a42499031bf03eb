"""What becomes of a product's sums while they are in registers.

An epilogue is a routine (out, sums, record, n, table): the sums of output n of a group of 4, for
`width` tokens; `out`: where output 0's tokens lie; `record`: address of the group's record (OUTPUT
unless another is named).  With scaled(sums) = sums * scale[n] + shift[n] they are, for int32 sums,

    table    y = tables[n][u8(scaled(sums))]: whatever follows a quantised product is a function of
             one byte, the same for outputs whose biases are alike; TABLE_OUTPUT
    plain    y = u8(scaled(sums)); shift is whole and holds MAGIC, so that the addition rounds
    bytes    y = u8(activation(scaled(sums)) * a + b), b with MAGIC; without an activation
             y = u8(scaled(sums))
    floats   y = activation(scaled(sums))
    rounded  the product is quantised and dequantised, then y = activation(product * a + shift[n]);
             b is the product's zero point + MAGIC
    dynamic  y = activation((sums - zero[t] * total[n]) * (scale[n] * scale[t]) + shift[n]): each
             token t has a scale and a zero point of its own; DYNAMIC_OUTPUT; table: the scales

and for float32 sums, of which there is FLOAT_OUTPUT,

    f32      y = activation(sums)
    rows, words, pairs    the same in bfloat16, as the next kernel reads it (rearrange.py)
    u8       y = u8(activation(sums) * a + b)

u8 rounds to nearest even and saturates; flip changes bits of bytes.  float32 sums are in token
order, int32 ones too or, where rows were unpacked for them, in quad order (`order`).
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    as_int,
    bf16_in_order,
    bf16_pairs,
    bf16_rows,
    fma,
    in_token_order,
    load_f32,
    load_i32,
    load_int,
    loads,
    lookup,
    maximum,
    minimum,
    mul,
    pack,
    pack_in_order,
    splats,
    store,
    sub,
    to_float,
    twice,
    xor,
)
from ..activations import ACTIVATIONS, ROUGH_ACTIVATIONS
from .records import DYNAMIC_OUTPUT, FLOAT_OUTPUT, OUTPUT, TABLE_OUTPUT

f32 = nb.float32
OF_WHOLE_SUMS = {"table": 1, "plain": 1, "bytes": 1, "floats": 4, "rounded": 4, "dynamic": 4}
OF_FLOAT_SUMS = {"f32": 4, "u8": 1, "rows": 2, "words": 2, "pairs": 2}
SIZE = OF_WHOLE_SUMS | OF_FLOAT_SUMS  # bytes of a result


def sums_of(epilogue):
    """The type of the sums that an epilogue takes."""
    return "f32" if epilogue in OF_FLOAT_SUMS else "i32"


def start_of(width, epilogue):
    """A routine: the sums of one output before anything is added, from where its start lies."""
    splat = splats(sums_of(epilogue), width)

    def of_whole(start):
        return splat(load_i32(start))

    def of_float(start):
        return splat(load_f32(start))

    return routine(of_float if sums_of(epilogue) == "f32" else of_whole)


def in_order(order):
    """Routines: sums, and rounded floats packed to u8, from `order` to token order."""

    def as_they_are(sums):
        return sums

    if order == "quads":
        return in_token_order, pack
    return routine(as_they_are), pack_in_order


def _scaled(width):
    """A routine: sums * scale + shift of output n, float32."""
    splat = splats("f32", width)

    def scaled(sums, record, n):
        scale = splat(load_f32(record + OUTPUT.scale + 4 * n))
        return fma(to_float(sums), scale, splat(load_f32(record + OUTPUT.shift + 4 * n)))

    return routine(scaled)


def _flipped(width):
    """A routine: bytes whose bits are changed as the record says."""
    splat = splats("i32", width // 4)

    def flipped(v, record):
        return xor(as_int(v), splat(load_i32(record + OUTPUT.flip)))

    return routine(flipped)


def _table(lanes, width, activation, order):
    scaled, (_, to_bytes) = _scaled(width), in_order(order)

    def finish(out, sums, record, n, table):
        of_output = table + load_int(record + TABLE_OUTPUT.table + 4 * n)
        store(out + lanes * n, lookup(of_output, to_bytes(scaled(sums, record, n))))

    return finish


def _plain(lanes, width, activation, order):
    scaled, flipped, (_, to_bytes) = _scaled(width), _flipped(width), in_order(order)

    def finish(out, sums, record, n, table):
        store(out + lanes * n, flipped(to_bytes(scaled(sums, record, n)), record))

    return finish


def _bytes(lanes, width, activation, order):
    scaled, flipped, splat = _scaled(width), _flipped(width), splats("f32", width)
    act, (_, to_bytes) = ROUGH_ACTIVATIONS[activation](width), in_order(order)

    def activated(out, sums, record, n, table):
        v = act(scaled(sums, record, n))
        v = fma(v, splat(load_f32(record + OUTPUT.a)), splat(load_f32(record + OUTPUT.b)))
        store(out + lanes * n, flipped(to_bytes(v), record))

    def linear(out, sums, record, n, table):
        v = add(scaled(sums, record, n), splat(f32(MAGIC)))
        store(out + lanes * n, flipped(to_bytes(v), record))

    return linear if activation == "none" else activated


def _floats(lanes, width, activation, order):
    scaled, act, (turned, _) = _scaled(width), ACTIVATIONS[activation](width), in_order(order)

    def finish(out, sums, record, n, table):
        store(out + 4 * lanes * n, turned(act(scaled(sums, record, n))))

    return finish


def _rounded(lanes, width, activation, order):
    splat, act = splats("f32", width), ACTIVATIONS[activation](width)
    turned, _ = in_order(order)

    def finish(out, sums, record, n, table):
        scale = splat(load_f32(record + OUTPUT.scale + 4 * n))
        v = fma(to_float(sums), scale, splat(load_f32(record + OUTPUT.b)))
        v = minimum(maximum(sub(v, splat(f32(MAGIC))), splat(f32(0))), splat(f32(255)))
        shift = splat(load_f32(record + OUTPUT.shift + 4 * n))
        v = act(fma(v, splat(load_f32(record + OUTPUT.a)), shift))
        store(out + 4 * lanes * n, turned(v))

    return finish


def _dynamic(lanes, width, activation, order):
    splat, whole, act = splats("f32", width), splats("i32", width), ACTIVATIONS[activation](width)
    load_scales, load_zeros = loads("f32", width), loads("i32", width)
    turned, _ = in_order(order)

    def finish(out, sums, record, n, table):
        total = whole(load_i32(record + DYNAMIC_OUTPUT.total + 4 * n))
        zeros = mul(load_zeros(table + 4 * lanes), total)
        scale = splat(load_f32(record + DYNAMIC_OUTPUT.scale + 4 * n))
        factor = mul(load_scales(table), scale)
        v = to_float(sub(turned(sums), zeros))
        v = fma(v, factor, splat(load_f32(record + DYNAMIC_OUTPUT.shift + 4 * n)))
        store(out + 4 * lanes * n, act(v))

    return finish


def _of_float_sums(keep, size):
    """An epilogue that stores keep(width)(activation(sums)); size: bytes of a result."""

    def made(lanes, width, activation, order):
        act = (ACTIVATIONS if size == 4 else ROUGH_ACTIVATIONS)[activation](width)

        def floats(out, sums, record, n, table):
            store(out + size * lanes * n, act(sums))

        def rounded(out, sums, record, n, table):
            store(out + size * lanes * n, keep(act(sums)))

        return floats if keep is None else rounded

    return made


def _rows(lanes, width, activation, order):
    """Of a row whose order is that of all its lanes; tokens that are not there may be anything."""
    act, size = ROUGH_ACTIVATIONS[activation](width), SIZE["rows"]

    def whole(out, sums, record, n, table):
        store(out + size * lanes * n, bf16_rows(act(sums)))

    def first(out, sums, record, n, table):
        store(out + size * lanes * n, bf16_rows(twice(act(sums))))

    return whole if width == lanes else first


def _float_bytes(lanes, width, activation, order):
    act, splat, flipped = (
        ROUGH_ACTIVATIONS[activation](width),
        splats("f32", width),
        _flipped(width),
    )

    def finish(out, sums, record, n, table):
        a, b = splat(load_f32(record + FLOAT_OUTPUT.a)), splat(load_f32(record + FLOAT_OUTPUT.b))
        store(out + lanes * n, flipped(pack_in_order(fma(act(sums), a, b)), record))

    return finish


_EPILOGUES = {
    "table": _table,
    "plain": _plain,
    "bytes": _bytes,
    "floats": _floats,
    "rounded": _rounded,
    "dynamic": _dynamic,
    "f32": _of_float_sums(None, SIZE["f32"]),
    "rows": _rows,
    "words": _of_float_sums(bf16_in_order, SIZE["words"]),
    "u8": _float_bytes,
}


def epilogue_of(lanes, width, name, activation, order="tokens"):
    """The routine on one output's sums; lanes: of a row of y, of which it makes `width`; order: of
    tokens in the sums.
    """
    return routine(_EPILOGUES[name](lanes, width, activation, order))


def epilogue_of_four(lanes, width, name, activation, order="tokens"):
    """A routine (out, sums a, b, c, d of a group's four outputs, record, table)."""
    if name == "pairs":
        act = ROUGH_ACTIVATIONS[activation](width)

        def pairs(out, a, b, c, d, record, table):
            store(out, bf16_pairs(act(a), act(b)))
            store(out + 4 * lanes, bf16_pairs(act(c), act(d)))

        return routine(pairs)

    finish = epilogue_of(lanes, width, name, activation, order)

    def one_by_one(out, a, b, c, d, record, table):
        finish(out, a, record, 0, table)
        finish(out, b, record, 1, table)
        finish(out, c, record, 2, table)
        finish(out, d, record, 3, table)

    return routine(one_by_one)
