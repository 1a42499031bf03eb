"""LayerNorm over channels, tokens in lanes: y = (v - mean v) / sqrt(var v + epsilon) * gamma +
beta, v = x + bias + residual; RMSNorm (Zhang, Sennrich 2019) is not centred: v / sqrt(mean v^2 +
epsilon) * gamma + beta.

v may share an offset of any size: sums and squares are those of deviations from the mean of SAMPLES
channels, which is within sqrt(channels / SAMPLES) standard deviations of that of all.

Two byte inputs: v = A x + B r + bias is exact in int32 (dot2_words), A : B a rational approximation
of the two scales; bias carries MAGIC_BITS, so that the integer sum is the float MAGIC + v without a
conversion.  |v| < 2^22, channels * (greatest v - least) < 2^31.

Where the graph rounds v to a byte, layer_norm_floats does; where it rounds after every operator, so
does layer_norm_rounded: v, its variance, that with epsilon, the normalised value, that times gamma.
A unit is a tile; params: LAYER_NORM_BYTES, LAYER_NORM_FLOATS, LAYER_NORM_ROUNDED.
"""

from functools import partial

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    MAGIC,
    add,
    as_float,
    as_int,
    bytes_to_float,
    div,
    dot2_words,
    fma,
    in_token_order,
    load_f32,
    load_i32,
    load_i64,
    loads,
    maximum,
    mul,
    pack,
    pack_in_order,
    splats,
    square_root,
    store,
    sub,
    to_float,
    weigh,
)
from .buffers import FEW, SOME, live_lanes, of_widths, tile_of
from .context import CONTEXT
from .params import LAYER_NORM_BYTES, LAYER_NORM_FLOATS, LAYER_NORM_ROUNDED
from .rounding import ROUNDING_BYTES, rounding

f32, i32 = nb.float32, nb.int32
SAMPLES = 8  # channels, evenly apart; a power of two


def _emit(lanes, output, quad_order):
    """A routine that stores one channel as "u8" or "f32"."""
    splat = splats("f32", lanes)

    def bytes_of_quads(y, floats, v):
        store(y, pack(add(v, splat(f32(MAGIC)))))

    def bytes_in_order(y, floats, v):
        store(y, pack_in_order(add(v, splat(f32(MAGIC)))))

    def floats_of_quads(y, floats, v):
        store(floats, in_token_order(v))

    def floats_in_order(y, floats, v):
        store(floats, v)

    if output == "u8":
        return routine(bytes_of_quads if quad_order else bytes_in_order)
    return routine(floats_of_quads if quad_order else floats_in_order)


def _moments(lanes, centred=True):
    """A routine: sums of deviations from one number and of their squares -> mean of the former,
    1 / sqrt(variance + epsilon); else 0, 1 / sqrt(mean square + epsilon).
    """
    splat = splats("f32", lanes)

    def moments(sums, squares, share, epsilon):
        rest = mul(sums, share)
        variance = sub(mul(squares, share), mul(rest, rest))
        variance = maximum(splat(f32(0)), variance)  # rounding may leave less than nothing
        return rest, div(splat(f32(1)), square_root(add(variance, epsilon)))

    def of_squares(sums, squares, share, epsilon):
        inverse = div(splat(f32(1)), square_root(fma(squares, share, epsilon)))
        return splat(f32(0)), inverse

    return routine(moments if centred else of_squares)


def layer_norm_bytes(lanes, output):
    """x and residual are u8.  A tile is done in as many lanes as hold something."""
    live, made = live_lanes(lanes), partial(_tile_of_bytes, lanes, output)
    few, some, whole = of_widths(made, lanes)

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        for tile in range(begin, end):
            x = tile_of(arena, params + LAYER_NORM_BYTES.x, tile)
            y = tile_of(arena, params + LAYER_NORM_BYTES.y, tile)
            r = tile_of(arena, params + LAYER_NORM_BYTES.residual, tile)
            floats = tile_of(arena, params + LAYER_NORM_BYTES.floats, tile)
            there = live(context, tile)
            if there <= FEW < lanes:
                few(params, x, r, y, floats)
            elif there <= SOME < lanes:
                some(params, x, r, y, floats)
            else:
                whole(params, x, r, y, floats)

    return kernel


def _tile_of_bytes(lanes, output, width):
    """A routine (params, x, residual, y, floats) for the first `width` lanes of a tile."""
    load, splat, whole = loads("u8", width), splats("f32", width), splats("i32", width)
    put, moments = _emit(width, output, True), _moments(width)

    def value(x, r, bias, n, weights):
        """MAGIC + v of a channel, its bits."""
        both = weigh(load(x + lanes * n), load(r + lanes * n))
        return dot2_words(whole(load_i32(bias + 4 * n)), both, weights)

    value = routine(value)

    def near_mean(x, r, bias, channels, weights):
        """MAGIC + a whole number."""
        sums = splat(f32(0))
        for n in range(SAMPLES):
            sums = add(sums, as_float(value(x, r, bias, n * channels // SAMPLES, weights)))
        return mul(sums, splat(f32(1 / SAMPLES)))

    near_mean = routine(near_mean)

    def normalise(params, x, r, y, floats):
        channels = load_i64(params + LAYER_NORM_BYTES.channels)
        weights = load_i32(params + LAYER_NORM_BYTES.weights)
        share = splat(load_f32(params + LAYER_NORM_BYTES.share))
        bias = load_i64(params + LAYER_NORM_BYTES.bias)
        gamma = load_i64(params + LAYER_NORM_BYTES.norm)
        near = near_mean(x, r, bias, channels, weights)
        sums, squares = whole(i32(0)), splat(f32(0))
        for n in range(channels):
            v = value(x, r, bias, n, weights)
            sums, v = add(sums, v), sub(as_float(v), near)
            squares = fma(v, v, squares)
        sums = sub(sums, mul(as_int(near), whole(i32(channels))))
        epsilon = splat(load_f32(params + LAYER_NORM_BYTES.epsilon))
        rest, factor = moments(to_float(sums), squares, share, epsilon)
        shift = mul(mul(add(near, rest), factor), splat(f32(-1)))
        for n in range(channels):
            v = fma(as_float(value(x, r, bias, n, weights)), factor, shift)
            v = fma(v, splat(load_f32(gamma + 8 * n)), splat(load_f32(gamma + 8 * n + 4)))
            put(y + lanes * n, floats + 4 * lanes * n, v)

    return routine(normalise)


def _source(lanes, kind):
    """A routine (address, channel, scale) -> float32 of a channel; zero points are in the bias."""
    load_bytes, load_floats, splat = loads("u8", lanes), loads("f32", lanes), splats("f32", lanes)

    def from_bytes(at, n, scale):
        return mul(bytes_to_float(load_bytes(at + lanes * n)), splat(scale))

    def from_floats(at, n, scale):
        return load_floats(at + 4 * lanes * n)

    def nothing(at, n, scale):
        return splat(f32(0))

    return routine({"u8": from_bytes, "f32": from_floats, "none": nothing}[kind])


def _values(lanes, x_type, residual_type):
    """Routines (x, residual, bias, ..., how): a channel of v, and a number near the mean of all;
    how: the scales of x and the residual, and the address of v's ROUNDING or 0.
    """
    splat, (_, rounded) = splats("f32", lanes), rounding(lanes)
    take_x, take_residual = _source(lanes, x_type), _source(lanes, residual_type)

    def value(x, r, bias, n, how):
        x_scale, r_scale, sum_how = how
        both = add(take_x(x, n, x_scale), take_residual(r, n, r_scale))
        v = add(both, splat(load_f32(bias + 4 * n)))
        return rounded(v, sum_how) if sum_how else v

    value = routine(value)

    def near_mean(x, r, bias, channels, how):
        sums = splat(f32(0))
        for n in range(SAMPLES):
            sums = add(sums, value(x, r, bias, n * channels // SAMPLES, how))
        return mul(sums, splat(f32(1 / SAMPLES)))

    return value, routine(near_mean)


def layer_norm_floats(lanes, x_type, residual_type, output, centred):
    """Any mixture of float32 and bytes; deviations, from the mean where that is centred, else from
    0, are kept in scratch.
    """
    load, splat, put = loads("f32", lanes), splats("f32", lanes), _emit(lanes, output, False)
    value, near_mean = _values(lanes, x_type, residual_type)
    moments = _moments(lanes, centred)

    def zero(x, r, bias, channels, how):
        return splat(f32(0))

    near_mean = near_mean if centred else routine(zero)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        channels = load_i64(params + LAYER_NORM_FLOATS.channels)
        share = splat(load_f32(params + LAYER_NORM_FLOATS.share))
        x_scale = load_f32(params + LAYER_NORM_FLOATS.x_scale)
        r_scale = load_f32(params + LAYER_NORM_FLOATS.residual_scale)
        how = x_scale, r_scale, load_i64(params + LAYER_NORM_FLOATS.sum)
        for tile in range(begin, end):
            x = tile_of(arena, params + LAYER_NORM_FLOATS.x, tile)
            y = tile_of(arena, params + LAYER_NORM_FLOATS.y, tile)
            r = tile_of(arena, params + LAYER_NORM_FLOATS.residual, tile)
            floats = tile_of(arena, params + LAYER_NORM_FLOATS.floats, tile)
            bias = load_i64(params + LAYER_NORM_FLOATS.bias)
            gamma = load_i64(params + LAYER_NORM_FLOATS.norm)
            near = near_mean(x, r, bias, channels, how)
            sums, squares = splat(f32(0)), splat(f32(0))
            for n in range(channels):
                v = sub(value(x, r, bias, n, how), near)
                store(kept + 4 * lanes * n, v)
                sums, squares = add(sums, v), fma(v, v, squares)
            rest, factor = moments(
                sums, squares, share, splat(load_f32(params + LAYER_NORM_FLOATS.epsilon))
            )
            shift = mul(mul(rest, factor), splat(f32(-1)))
            for n in range(channels):
                v = fma(load(kept + 4 * lanes * n), factor, shift)
                v = fma(v, splat(load_f32(gamma + 8 * n)), splat(load_f32(gamma + 8 * n + 4)))
                put(y + lanes * n, floats + 4 * lanes * n, v)

    return kernel


def layer_norm_rounded(lanes, residual_type):
    """x and y are u8, as is the residual, with which the sum is rounded."""
    load, splat, (to_steps, rounded) = loads("f32", lanes), splats("f32", lanes), rounding(lanes)
    value, near_mean = _values(lanes, "u8", residual_type)

    def root(sums, squares, params, roundings):
        """The mean of what is kept, and 1 / the root."""
        share = splat(load_f32(params + LAYER_NORM_ROUNDED.share))
        rest = mul(sums, share)
        variance = maximum(splat(f32(0)), sub(mul(squares, share), mul(rest, rest)))
        variance = rounded(variance, roundings)
        epsilon = splat(load_f32(params + LAYER_NORM_ROUNDED.epsilon))
        raised = rounded(add(variance, epsilon), roundings + ROUNDING_BYTES)
        return rest, div(splat(f32(1)), square_root(raised))

    root = routine(root)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        channels = load_i64(params + LAYER_NORM_ROUNDED.channels)
        x_scale = load_f32(params + LAYER_NORM_ROUNDED.x_scale)
        r_scale = load_f32(params + LAYER_NORM_ROUNDED.residual_scale)
        how = x_scale, r_scale, load_i64(params + LAYER_NORM_ROUNDED.sum)
        roundings = load_i64(params + LAYER_NORM_ROUNDED.roundings)
        for tile in range(begin, end):
            x = tile_of(arena, params + LAYER_NORM_ROUNDED.x, tile)
            y = tile_of(arena, params + LAYER_NORM_ROUNDED.y, tile)
            r = tile_of(arena, params + LAYER_NORM_ROUNDED.residual, tile)
            bias = load_i64(params + LAYER_NORM_ROUNDED.bias)
            gamma = load_i64(params + LAYER_NORM_ROUNDED.norm)
            near = near_mean(x, r, bias, channels, how)
            sums, squares = splat(f32(0)), splat(f32(0))
            for n in range(channels):
                v = sub(value(x, r, bias, n, how), near)
                store(kept + 4 * lanes * n, v)
                sums, squares = add(sums, v), fma(v, v, squares)
            rest, factor = root(sums, squares, params, roundings)
            for n in range(channels):
                v = mul(sub(load(kept + 4 * lanes * n), rest), factor)
                v = rounded(v, roundings + 2 * ROUNDING_BYTES)
                v = mul(v, splat(load_f32(gamma + 8 * n)))
                v = add(
                    rounded(v, roundings + 3 * ROUNDING_BYTES), splat(load_f32(gamma + 8 * n + 4))
                )
                store(y + lanes * n, pack_in_order(to_steps(v, roundings + 4 * ROUNDING_BYTES)))

    return kernel
