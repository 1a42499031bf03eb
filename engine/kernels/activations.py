"""Vector functions of float32: exp, tanh, GELU; each states its greatest error, which
tests/kernels/test_activations.py measures.

GELU(x) = x Phi(x); Phi(x) - 1/2 is odd, so it is x times a polynomial in x^2 on [-limit, limit],
where x is clipped to for it: minimax, found by reweighted least squares on Chebyshev nodes, in the
variable 2 x^2 / limit^2 - 1 so that float32 loses nothing.
"""

import numba as nb

from ..lower import routine
from ..simd import (
    MAGIC,
    MAGIC_BITS,
    add,
    as_float,
    as_int,
    div,
    fma,
    maximum,
    minimum,
    mul,
    shifts,
    splats,
    sub,
)

f32, i32 = nb.float32, nb.int32

GELU_5 = (
    0.000492956625,
    -0.00151414254,
    0.00200189076,
    -0.00291569884,
    0.00616540424,
    -0.0109732107,
    0.0164976663,
    -0.0233367383,
    0.0314262279,
    -0.0404329485,
    0.051521421,
    -0.0702966524,
    0.14136378,
)
GELU_4 = (
    0.00113082771,
    -0.0036763992,
    0.00658656075,
    -0.0119885295,
    0.0223005323,
    -0.0369621546,
    0.0559698844,
    -0.084317157,
    0.175948963,
)
EXP = (0.00829171668, 0.0419150285, 0.166676628, 0.499988991, 0.999999666, 1.00000007)
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
    """exp(x), x clipped to [-87, 88]; relative error below 2.5e-7."""
    splat, whole, series, up = (
        splats("f32", lanes),
        splats("i32", lanes),
        polynomial(EXP, lanes),
        shifts("left", 23),
    )

    def exp(x):
        x = minimum(maximum(x, splat(f32(-87.0))), splat(f32(88.0)))
        shifted = fma(x, splat(f32(LOG2_E)), splat(f32(MAGIC)))
        n = sub(shifted, splat(f32(MAGIC)))
        r = fma(n, splat(f32(-LN_2_HIGH)), x)
        r = fma(n, splat(f32(-LN_2_LOW)), r)
        return as_float(add(as_int(series(r)), up(sub(as_int(shifted), whole(i32(MAGIC_BITS))))))

    return routine(exp)


def tanh_of(lanes):
    """tanh(x) = 1 - 2 / (exp(2 x) + 1); absolute error below 3e-7."""
    splat, exp = splats("f32", lanes), exponential(lanes)

    def tanh(x):
        return sub(splat(f32(1)), div(splat(f32(2)), add(exp(add(x, x)), splat(f32(1)))))

    return routine(tanh)


def _gelu(lanes, limit, coefficients):
    stretch = 2 / limit**2
    splat, series = splats("f32", lanes), polynomial(coefficients, lanes)

    def gelu(x):
        x = maximum(x, splat(f32(-limit)))  # below, the result is 0: not x times almost 0
        z = minimum(x, splat(f32(limit)))
        s = fma(mul(z, z), splat(f32(stretch)), splat(f32(-1)))
        return mul(x, fma(z, series(s), splat(f32(0.5))))

    return routine(gelu)


def gelu(lanes):
    """x Phi(x), the exact (erf) form; absolute error below 2e-6, relative to x above 8 3e-7."""
    return _gelu(lanes, 5.0, GELU_5)


def gelu_for_bytes(lanes):
    """The same to 3e-4: a hundredth of a quantised step; used only where the result is rounded to a
    byte at once.
    """
    return _gelu(lanes, 4.0, GELU_4)


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
        return maximum(x, splat(f32(0)))

    return routine(positive)


def none(lanes):
    """x."""

    def same(x):
        return x

    return routine(same)


ACTIVATIONS = {"none": none, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": tanh_of, "relu": relu}
ACTIVATIONS_FOR_BYTES = {**ACTIVATIONS, "gelu": gelu_for_bytes}
