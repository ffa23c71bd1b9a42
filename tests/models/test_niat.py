"""What NIAT drops, where it reads, and that without noise both copies are one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.models.niat import Config, _without
from avjax.streams import Stream
from tests.models import tiny
from tests.models.systems import batch

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_dropped_steps_are_zero_but_for_the_first_and_last_there():
    valid = jnp.asarray([[False, True, True, True, True, False], [True] * 6, [False] * 6])
    stream = Stream(jnp.ones((3, 6, 1)), valid, jnp.zeros(3), 1.0)
    everything = _without(stream, jnp.ones((3, 3), bool)).values[..., 0]
    np.testing.assert_array_equal(everything[0][valid[0]], [1, 0, 0, 1])
    np.testing.assert_array_equal(everything[1], [1, 0, 0, 0, 0, 1])
    # A segment is two steps here.
    middle = _without(stream, jnp.asarray([[False, True, False]] * 3)).values[..., 0]
    np.testing.assert_array_equal(middle[1], [1, 1, 0, 0, 1, 1])


def run(config, made, **modes):
    model = config.build(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = tiny.randomise(params, np.random.default_rng(3), 0.2)
    modes = {"deterministic": True, "use_running_average": True} | modes

    @tiny.jit
    def forward(params, made):
        model = nnx.merge(graph, params, rest, copy=True)
        return nnx.view(model, raise_if_not_found=False, **modes)(made)

    return forward(params, jax.tree.map(jnp.asarray, made))


def test_without_noise_the_terms_are_those_of_the_batch(rng):
    config = dataclasses.replace(Config.tiny(), rate=0.0)
    made = batch(config, rng, 4)
    output = run(config, made)
    want = optax.losses.softmax_cross_entropy(output.logits["emotion"], jnp.asarray(made.target["emotion"])).mean()
    assert float(output.aux["losses"]["noisy"].value) == pytest.approx(float(want), rel=1e-5)
    # Both players see the same: -log D - log(1 - D) is log 4 at least.
    assert output.aux["losses"]["discrimination"].value >= np.log(4) - 1e-6


def test_noise_is_drawn_in_training_and_the_same_in_evaluation(rng):
    config = dataclasses.replace(Config.tiny(), rate=0.5)
    made = batch(config, rng, 4)
    one, two = run(config, made), run(config, made)
    assert one.aux["losses"]["noisy"].value == two.aux["losses"]["noisy"].value
    drawn = run(config, made, deterministic=False)
    assert one.aux["losses"]["noisy"].value != drawn.aux["losses"]["noisy"].value
    np.testing.assert_array_equal(one.logits["emotion"], drawn.logits["emotion"])


@pytest.mark.parametrize("readout", ["first", "last"])
def test_the_first_segment_hears_nothing_of_what_follows(readout, rng):
    config = dataclasses.replace(Config.tiny(), readout=readout)
    made = batch(config, rng, 4)
    other = made.replace(streams={m: s.replace(values=np.array(s.values)) for m, s in made.streams.items()})
    # Of six steps the last is of the last of four segments, and the convolution of three reaches the fourth to last.
    other.streams["audio"].values[:, -1] += 1
    same = np.abs(run(config, made).logits["emotion"] - run(config, other).logits["emotion"]).max() < 1e-6
    assert same == (readout == "first")
