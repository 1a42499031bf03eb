"""Bodies of instructions for CPUs that are not here, executed: in place of machine instructions
that this CPU may lack their NumPy meanings are called (tests/x86_meanings.py).

So a permutation or an order of operands that is wrong for AVX-512 is seen where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen import compile as compiler
from engine.codegen import lower
from engine.codegen.compile import Compiled
from engine.codegen.isa import Isa, detected, named
from tests import test_simd
from tests.instruction_sets import WITHOUT_TILES, reachable
from tests.x86_meanings import with_meanings

Array = NDArray[Any]
HERE = reachable("avx2").native  # also where there is more: nothing above it is used
LACKING = [name for name in WITHOUT_TILES if name not in {isa.name for isa in detected()}]
BODIES = sorted({*LACKING, "avx512", "avx512_bf16"}, key=WITHOUT_TILES.index)


@pytest.fixture
def bodies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isa:
    """Kernels are made of this set's bodies, in instructions of HERE."""
    shape, made = named(request.param), lower.kernel_module

    def of_meanings(name: str, function: Any, isa: Isa) -> str:
        return with_meanings(made(name, function, shape))

    def compiled(name: str, build: Callable[[], Any], isa: Isa) -> Compiled:
        return compiler._load(name, compiler.object_code(name, build, isa), isa)

    monkeypatch.setattr(lower, "kernel_module", of_meanings)
    monkeypatch.setattr(test_simd, "compiled", compiled)
    return shape


def single(meaning: Callable[[], Array]) -> Callable[[], Array]:
    return lambda: np.float32(meaning())


@pytest.mark.parametrize("bodies", BODIES, indirect=True)
def test_bodies_of_other_cpus_mean_what_numpy_means(bodies: Isa) -> None:
    rows = [*test_simd.ROWS, *((text, single(meaning)) for text, meaning in test_simd.CLOSE)]
    found = test_simd.values(rows, HERE, bodies.name)
    exact, sums = found[: len(test_simd.ROWS)], found[len(test_simd.ROWS) :]
    assert not [
        text for text, got, wanted in exact if not np.array_equal(got, wanted, equal_nan=True)
    ]
    for text, got, wanted in sums:
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=text)
