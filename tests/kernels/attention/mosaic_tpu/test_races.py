"""The kernels in the simulator of a TPU, which detects races, fills scratch and what lies past arrays with NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.attention import Layout, Mask
from kernels.attention.mosaic_tpu import target
from tests.kernels.attention.cases import Case, check, compiled
from tests.kernels.attention.contract import normal
from tests.levels import in_short

pytestmark = pytest.mark.slow

SIMULATED = pltpu.InterpretParams(
    detect_races=True, out_of_bounds_reads="uninitialized", uninitialized_memory="nan", num_cores_or_threads=2
)
LAYOUT = Layout.of(audio=70, bottleneck=4, video=81)


def plain(rng, **more):
    arrays = {name: normal(rng, 2, 155, 2, 32) for name in ("query", "key", "value")}
    return Case({**arrays, "received_weights": normal(rng, 2, 155, 1), **more}, Mask(LAYOUT, LAYOUT))


FEATURES = {
    "plain": plain,
    "bias": lambda rng: plain(rng, bias=normal(rng, 1, 2, 155, 155)),
    "bias of keys": lambda rng: plain(rng, bias=normal(rng, 2, 1, 1, 155)),
    "softcap": lambda rng: Case(plain(rng).arrays, Mask(LAYOUT, LAYOUT), softcap=2.0),
    "dropout": lambda rng: Case(plain(rng).arrays, Mask(LAYOUT, LAYOUT), dropout=(0.3, 5)),
    "causal": lambda rng: Case(plain(rng).arrays, Mask(LAYOUT, LAYOUT, causal=True)),
    "window": lambda rng: Case(plain(rng).arrays, Mask(LAYOUT, LAYOUT, window=(9, 30))),
    "sees": lambda rng: Case(
        plain(rng).arrays, Mask(LAYOUT, LAYOUT, sees=[(a, b) for a in LAYOUT.names for b in ("bottleneck", a)])
    ),
    "validity": lambda rng: Case(
        plain(rng).arrays,
        Mask(LAYOUT, LAYOUT, key_valid=rng.random((2, 155)) < 0.7, query_valid=rng.random((2, 155)) < 0.7),
    ),
    "presence": lambda rng: Case(
        plain(rng).arrays, Mask(LAYOUT, LAYOUT, presence=np.array([[True, True, False], [False, False, True]]))
    ),
    "segments": lambda rng: Case(
        plain(rng).arrays,
        Mask(LAYOUT, LAYOUT, segments=(np.sort(rng.integers(0, 3, (2, 155))), np.sort(rng.integers(0, 3, (2, 155))))),
    ),
    "grouped heads": lambda rng: Case({**plain(rng).arrays, "query": normal(rng, 2, 155, 4, 32)}, Mask(LAYOUT, LAYOUT)),
}


# What makes the kernels go about it differently: `make check` has this, and `make long` the others.
SHORT = ("presence",)


@pytest.mark.parametrize("feature", in_short(FEATURES, SHORT))
def test_no_race_and_nothing_unwritten_is_used(feature, rng):
    """Forward and backward with every statistic, and with those of the usual kind; a race raises, NaN would show."""
    case = FEATURES[feature](rng)
    compiled.cache_clear()
    with target.interpreted(params=SIMULATED):
        check(case, "mosaic_tpu", np.float32, rng, quick=True)
        check(case, "mosaic_tpu", np.float32, rng, quick=True, statistics=("lse", "mass", "entropy"))
    compiled.cache_clear()


def test_the_simulator_finds_a_race():
    """Two programs of a parallel grid that write the same block: what the tests above would not let pass."""

    def kernel(x, y):
        y[...] = x[...] + pl.program_id(0).astype(jnp.float32)

    call = pl.pallas_call(
        kernel, grid=(2,), in_specs=[pl.BlockSpec((8, 128), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)), out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)), interpret=SIMULATED,
    )  # fmt: skip
    with pytest.raises(Exception, match=r"[Rr]ace"):
        jax.block_until_ready(call(jnp.zeros((8, 128))))
