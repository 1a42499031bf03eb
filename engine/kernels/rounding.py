"""To the steps of a quantisation, and back to what they stand for."""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import MAGIC, fma, load_f32, maximum, minimum, mul, splats, sub
from .params import ROUNDING

f32 = nb.float32
ROUNDING_BYTES = ROUNDING.size  # Numba takes a record's offsets as constants, not its size


def rounding(lanes):
    """Routines (v, address of a ROUNDING): to steps and MAGIC, clipped, of NaN the least; and back
    to what they stand for.
    """
    splat = splats("f32", lanes)

    def to_steps(v, how):
        factor = splat(load_f32(how + ROUNDING.factor))
        v = fma(v, factor, splat(load_f32(how + ROUNDING.zero)))
        return minimum(maximum(v, splat(f32(MAGIC))), splat(f32(MAGIC + 255)))

    to_steps = routine(to_steps)

    def there_and_back(v, how):
        steps = sub(to_steps(v, how), splat(load_f32(how + ROUNDING.zero)))
        return mul(steps, splat(load_f32(how + ROUNDING.scale)))

    return to_steps, routine(there_and_back)
