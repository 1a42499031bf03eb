"""Vector functions of float32: exp, tanh, GELU, Swish; each states its greatest error, which
tests/kernels/test_activations.py measures.

GELU(x) = x Phi(x) = x / 2 + |x| (Phi(|x|) - 1/2); the parenthesis is a polynomial in each of 16
pieces of [0, limit], to which |x| is clipped for it: interpolation in Chebyshev nodes, near
minimax.  Picking coefficients out of registers takes half the time of one polynomial for all.

NaN, whatever its bits, gives NaN; infinities give what they give in ONNX Runtime, where GELU of
-inf, -inf * 0, is NaN.  maximum and minimum return their second operand where either is NaN: limits
go first, x second.
"""

import math

import numba as nb
import numpy as np

from ..codegen.lower import routine
from ..codegen.simd import (
    MAGIC,
    absolute,
    add,
    as_float,
    as_int,
    div,
    fma,
    literal,
    maximum,
    minimum,
    mul,
    pick,
    shifts,
    splats,
    square_root,
    sub,
    to_float,
    where_above,
)

f32, i32 = nb.float32, nb.int32

EXP = (0.00829171668, 0.0419150285, 0.166676628, 0.499988991, 0.999999666, 1.00000007)
LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
LOG_OFFSET = (128 << 23) - 0x3F3504F3  # less the bits of sqrt(1/2)
LEAST_SUM, MOST = 2.0**-25, 3.4028234663852886e38  # x + 1 is 0 or more than that; float32's
PIECES = 16  # floats of a register
EXPONENT_BIAS = 127  # of float32
LOG2_E, LN_2_HIGH, LN_2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4


def polynomial(coefficients, lanes):
    """A routine x -> c[0] x^n + ... + c[n]."""
    splat = splats("f32", lanes)
    lines = ["def evaluate(x):", f"    y = splat(f32({coefficients[0]!r}))"]
    lines += [f"    y = fma(y, x, splat(f32({c!r})))" for c in coefficients[1:]] + ["    return y"]
    scope = {"splat": splat, "fma": fma, "f32": f32}
    exec("\n".join(lines), scope)  # unrolled: Numba does not loop over a tuple at compile time
    return routine(scope["evaluate"])


def exponential(lanes):
    """exp(x) = 2^n exp(x - n ln 2); relative error below 2.5e-7 for |x| < 87.3.  0 below -87.7, inf
    above 88.4, where n is one more than 127; a product carries NaN, a sum of exponents would not.
    """
    splat, series, up = splats("f32", lanes), polynomial(EXP, lanes), shifts("left", 23)
    zero = MAGIC + EXPONENT_BIAS

    def exp(x):
        x = minimum(splat(f32(88.7)), maximum(splat(f32(-88.0)), x))
        shifted = fma(x, splat(f32(LOG2_E)), splat(f32(zero)))  # low bits: those of 2^n
        n = sub(shifted, splat(f32(zero)))
        r = fma(n, splat(f32(-LN_2_HIGH)), x)
        r = fma(n, splat(f32(-LN_2_LOW)), r)
        return mul(series(r), as_float(up(as_int(shifted))))

    return routine(exp)


def tanh_of(lanes):
    """tanh(x) = 1 - 2 / (exp(2 x) + 1); absolute error below 3e-7."""
    splat, exp = splats("f32", lanes), exponential(lanes)

    def tanh(x):
        return sub(splat(f32(1)), div(splat(f32(2)), add(exp(add(x, x)), splat(f32(1)))))

    return routine(tanh)


def half_less(x):
    """Phi(x) - 1/2, Phi the normal distribution's."""
    return math.erf(x / math.sqrt(2)) / 2


def interpolated(function, nodes):
    """Coefficients, the highest first, of the polynomial through these points (Newton)."""
    differences, made = [function(x) for x in nodes], [0.0]
    for n in range(1, len(nodes)):
        for k in range(len(nodes) - 1, n - 1, -1):
            differences[k] -= differences[k - 1]
            differences[k] /= nodes[k] - nodes[k - n]
    for difference, node in zip(reversed(differences), reversed(nodes), strict=True):
        upper, lower = [*made, 0.0], [0.0, *made]
        made = [p - node * q for p, q in zip(upper, lower, strict=True)]
        made[-1] += difference
    return made[-len(nodes) :]


def in_pieces(function, limit, last, degree, lanes):
    """A routine 0 <= x <= limit -> about function(x); piece n is what is nearest to n * step.  The
    last piece is moved so that the value at limit is `last`.
    """
    step, table = limit * (1 + 1e-6) / (PIECES - 0.5), []
    for n in range(PIECES):
        low, high = step * max(n - 0.5, 0), step * (n + 0.5)
        turns = [math.pi * (2 * k + 1) / (2 * degree + 2) for k in range(degree + 1)]
        nodes = [(low + high) / 2 + (high - low) / 2 * math.cos(turn) for turn in turns]
        table.append(interpolated(function, nodes))
    rounded = np.array(table[-1], np.float32).astype(np.float64)
    table[-1][-1] = rounded[-1] + last - np.polyval(rounded, np.float32(limit))
    coefficients = [literal(numbers) for numbers in zip(*table, strict=True)]
    splat, highest, per_step = splats("f32", lanes), coefficients[0], 1 / step

    def constant(n, x):
        return pick(n, highest())

    series = routine(constant)
    for coefficient in coefficients[1:]:
        series = _next_term(series, coefficient)

    def evaluate(x):
        return series(as_int(fma(x, splat(f32(per_step)), splat(f32(MAGIC)))), x)

    return routine(evaluate)


def _next_term(series, coefficient):
    def sum_(n, x):
        return fma(series(n, x), x, pick(n, coefficient()))

    return routine(sum_)


def _gelu(lanes, limit, degree):
    splat, above = splats("f32", lanes), in_pieces(half_less, limit, 0.5, degree, lanes)

    def gelu(x):
        size = absolute(x)
        y = above(minimum(size, splat(f32(limit))))  # 1/2 from there on: x or 0 to the last bit
        return fma(size, y, mul(x, splat(f32(0.5))))

    return routine(gelu)


def gelu(lanes):
    """x Phi(x), the exact (erf) form; absolute error below 2e-6, relative to x above 8 3e-7."""
    return _gelu(lanes, 5.0, 3)


def rough_gelu(lanes):
    """The same to 5e-5, for what is rounded to a byte or to bfloat16 at once."""
    return _gelu(lanes, 4.5, 2)


def gelu_tanh(lanes):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); absolute error below 2e-6."""
    splat, tanh = splats("f32", lanes), tanh_of(lanes)

    def gelu(x):
        inner = mul(
            mul(x, splat(f32(0.7978845608028654))),
            fma(mul(x, x), splat(f32(0.044715)), splat(f32(1))),
        )
        return mul(mul(x, splat(f32(0.5))), add(splat(f32(1)), tanh(inner)))

    return routine(gelu)


def relu(lanes):
    """max(x, 0)."""
    splat = splats("f32", lanes)

    def positive(x):
        return maximum(splat(f32(0)), x)

    return routine(positive)


def none(lanes):
    """x."""

    def same(x):
        return x

    return routine(same)


def sigmoid(lanes):
    """1 / (1 + exp(-x)); absolute error below 2e-7."""
    splat, exp = splats("f32", lanes), exponential(lanes)

    def sigmoid_(x):
        return div(splat(f32(1)), add(splat(f32(1)), exp(sub(splat(f32(0)), x))))

    return routine(sigmoid_)


def log1p(lanes):
    """log(x + 1), x + 1 = 2^n m with m from sqrt(1/2) to sqrt(2); error below 2e-7, absolute and
    relative to log(x + 1).
    """
    splat, whole, series = splats("f32", lanes), splats("i32", lanes), polynomial(LOG, lanes)
    up, down = shifts("left", 23), shifts("right", 23)

    def log(x):
        v = add(x, splat(f32(1)))
        n = sub(down(add(as_int(v), whole(i32(LOG_OFFSET)))), whole(i32(128)))
        f, n = sub(as_float(sub(as_int(v), up(n))), splat(f32(1))), to_float(n)
        square = mul(f, f)
        y = fma(mul(f, square), series(f), mul(n, splat(f32(LN_2_LOW))))
        y = add(f, fma(square, splat(f32(-0.5)), y))
        y = fma(n, splat(f32(LN_2_HIGH)), y)
        y = fma(square_root(v), splat(f32(0)), y)  # NaN below 0
        y = where_above(splat(f32(LEAST_SUM)), absolute(v), splat(f32(-math.inf)), y)
        return where_above(v, splat(f32(MOST)), v, y)

    return routine(log)


def swish(lanes):
    """x / (1 + exp(-x)); relative error below 5e-7 where exp(-x) is no infinity, else about 0."""
    splat, exp = splats("f32", lanes), exponential(lanes)

    def scaled(x):
        return div(x, add(splat(f32(1)), exp(sub(splat(f32(0)), x))))

    return routine(scaled)


ACTIVATIONS = {
    "none": none, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": tanh_of, "relu": relu,
    "swish": swish,
}  # fmt: skip
FUNCTIONS = {**ACTIVATIONS, "sigmoid": sigmoid, "log1p": log1p}  # that no product ends with
ROUGH_ACTIVATIONS = {**ACTIVATIONS, "gelu": rough_gelu}
