"""Jobs: what is counted without compiling anything."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.aot import jobs
from kernels.aot.jobs import Job
from kernels.attention.specs import NAMED
from tests.kernels.attention import dense


def test_a_job_goes_through_json():
    job = Job("v5e", "square", statistics=("lse",), sizes=(256, 256, 128, 128))
    assert Job.of(json.loads(json.dumps(dataclasses.asdict(job)))) == job
    assert job.name == "v5e, square, mosaic_tpu, batch 8, bfloat16, forward, lse"


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("name", ["mbt_audioset", "odd_129", "gqa"])
def test_steps_are_counted_by_what_is_seen(name, direction):
    """Executed steps against the dense mask: a block with anything seen is executed, one with all seen is whole."""
    spec = NAMED[name]
    job = Job("v5e", name, batch=2, direction=direction, dynamic=True, sizes=(128, 128, 128, 128))
    last = spec.keys.names[-1]
    mask = jobs.mask_at(spec, 2, {last: 0.5}, 0.8)
    seen = dense.visible(jax.tree.map(np.asarray, mask), 2)
    found = jobs.executed(job, mask)
    rows, columns = (jobs.filled(length, 128) for length in (spec.queries.length, spec.keys.length))
    padded = np.zeros((2, rows, columns), bool)
    padded[:, : seen.shape[1], : seen.shape[2]] = seen
    blocks = padded.reshape(2, rows // 128, 128, columns // 128, 128)
    executed = int(blocks.any((2, 4)).sum())
    for kernel in ("of_queries", "of_keys") if direction == "both" else ("forward",):
        total = sum(found[kernel].values())
        # Groups and positions are judged apart, so a few blocks more than need be may be visited, and none less.
        assert executed * spec.heads <= total <= (executed + 4) * spec.heads, kernel
    if direction == "both":
        assert found["of_keys"]["whole"] <= int(blocks.all((2, 4)).sum()) * spec.heads


def test_presence_and_validity_are_shares():
    spec = NAMED["cav_mae"]
    mask = jobs.mask_at(spec, 8, {"video": 0.25}, 0.5)
    np.testing.assert_array_equal(np.asarray(mask.presence).mean(0), [1, 0.25])
    assert np.asarray(mask.key_valid)[:, :512].mean() == 0.5
    with pytest.raises(ValueError, match="no group 'touch'; it has audio, video"):
        jobs.mask_at(spec, 8, {"touch": 1.0}, 1.0)


def test_splash_is_given_rows_that_all_see_something():
    seen = jobs.splash_mask(NAMED["mbt_audioset"], 2048, 2048)
    assert seen.any(1).all()
    assert not seen[:401, 405:].any()
    steps = jobs.executed(Job("v5e", "square", "splash", batch=1, sizes=(256, 256, 256, 256)))
    assert steps == {"forward": {"whole": 4 * 12, "masked": 0}}


@pytest.mark.parametrize(("feature", "value"), [("statistics", ("lse",)), ("bias", True)])
def test_splash_is_not_asked_for_what_it_does_not_have(feature, value):
    with pytest.raises(ValueError, match=f"splash has no {feature}"):
        jobs.function(Job("v5e", "square", "splash", **{feature: value}))


@pytest.mark.parametrize("implementation", ["blockwise", "reference", "jax.nn"])
@pytest.mark.slow
def test_implementations_compute_the_same(implementation):
    """The functions that are compiled, run here: forward and gradients with a bias and a missing modality."""
    job = Job("v5e", "odd_7", implementation, batch=2, dtype="float32", direction="both", bias=True, dynamic=True)
    rng = np.random.default_rng(0)
    arrays = [
        jnp.asarray(rng.random(one.shape) < 0.8)
        if one.dtype == bool
        else jnp.asarray(rng.normal(size=one.shape), one.dtype)
        for one in jobs.arguments(job)
    ]
    # To jax.nn, queries of a modality that is missing still ask.
    arrays[-1] = jnp.array([[True, True], [True, implementation == "jax.nn"]])
    arrays[-2] = arrays[-2].at[:, 0].set(True)
    with jax.default_matmul_precision("highest"):
        found = jobs.function(job)(*arrays)
        want = jobs.function(dataclasses.replace(job, implementation="reference"))(*arrays)
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
