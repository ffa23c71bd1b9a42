"""Heads: ranges, shapes, references in float64; a decoder that knows nothing of what comes later."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.nn import heads
from avjax.nn.transformer import Size
from avjax.streams import Stream
from tests.models import reference
from tests.nn.randomised import Randomised, as_bfloat16, assert_named

SIZE = Size(width=8, depth=1, heads=2, hidden=2)
TOLERANCE = {"rtol": 5e-5, "atol": 5e-5}


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def hidden(x, valid):
    """NaN where it is not valid."""
    return jnp.asarray(np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim)), x, np.nan), jnp.float32)


@pytest.fixture
def segments(rng):
    """[3, 5, 4] with gaps; the last row has nothing."""
    valid = rng.random((3, 5)) < 0.6
    valid[:2, 1], valid[2] = True, False
    return rng.normal(size=(3, 5, 4)), valid


@pytest.mark.parametrize("units", [0, 6])
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0), (0.0, 5.0)])
def test_regression(rng, units, bounds):
    block = heads.RegressionHead(4, {"valence": 1, "place": 3}, bounds=bounds, hidden=units, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x = rng.normal(size=(2, 3, 4))
    got = forward(jnp.asarray(x, jnp.float32))
    assert {head: y.shape for head, y in got.items()} == {"valence": (2, 3, 1), "place": (2, 3, 3)}
    raised = np.maximum(dense(x, forward.weights["hidden"]), 0) if units else x
    for head, y in got.items():
        want = dense(raised, forward.weights["heads"][head])
        if bounds is not None:
            low, high = bounds
            want = low + (high - low) * (1 + np.tanh(want)) / 2
        np.testing.assert_allclose(y, want, **TOLERANCE)
    if bounds is not None:
        far = forward(jnp.full((1, 4), 1e9))
        assert all(bounds[0] <= float(v) <= bounds[1] for y in far.values() for v in y.ravel())


def test_segments_supervised(rng, segments):
    x, valid = segments
    block = heads.SegmentHead(4, 3, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    args = hidden(x, valid), jnp.asarray(valid)
    got = forward(*args)
    event = dense(x, forward.weights["event"])[..., 0] * valid
    np.testing.assert_allclose(got["event"], event, **TOLERANCE)
    for row in range(2):
        video = dense(x[row][valid[row]].max(0), forward.weights["classify"])
        np.testing.assert_allclose(got["video"][row], video, **TOLERANCE)
    assert (np.asarray(got["video"][2]) == 0).all()
    forward.assert_finite(*args)


def test_where_an_event_is():
    event = jnp.array([[2.0, -1.0, 3.0, 0.0]])
    found = heads.localise(event, jnp.array([[0.1, 0.7, 0.2]]), jnp.array([[True, True, False, True]]))
    # Class 1 where something happens and was heard or seen at all, else 3, the background.
    np.testing.assert_array_equal(found, [[1, 3, 3, 3]])


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_segments_from_labels_of_clips(rng, segments, pool):
    x, valid = segments
    block = heads.WeakSegmentHead(4, 3, pool=pool, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    args = hidden(x, valid), jnp.asarray(valid)
    got = forward(*args)
    segment = dense(x, forward.weights["classify"])
    np.testing.assert_allclose(got["segment"], segment * valid[..., None], **TOLERANCE)
    for row in range(2):
        there = segment[row][valid[row]]
        np.testing.assert_allclose(got["video"][row], there.mean(0) if pool == "mean" else there.max(0), **TOLERANCE)
    assert (np.asarray(got["video"][2]) == 0).all()
    forward.assert_finite(*args)


def test_ctc_head_fits_the_loss(rng, segments):
    x, valid = segments
    block = heads.CTCHead(4, 6, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    args = hidden(x, valid), jnp.asarray(valid)
    logits = forward(*args)
    assert logits.shape == (3, 5, 7)
    np.testing.assert_allclose(logits, dense(x, forward.weights["classify"]) * valid[..., None], **TOLERANCE)
    forward.assert_finite(*args)
    labels = jnp.array([[1], [6], [2]])
    loss = optax.ctc_loss(logits, 1.0 - valid, labels, jnp.zeros((3, 1)))
    assert np.isfinite(np.asarray(loss[:2])).all()


CONTEXTS = ("audio", "video")


@pytest.fixture
def decoder(rng):
    """A decoder of one layer, labels [3, 5], and contexts, of which row 2 has no video."""
    block = heads.AttentionDecoder(SIZE, 7, CONTEXTS, length=6, rngs=nnx.Rngs(0))
    assert_named(block)
    valid = {"audio": rng.random((3, 4)) < 0.7, "video": rng.random((3, 6)) < 0.7}
    for m in CONTEXTS:
        valid[m][:, 0] = True
    valid["video"][2] = False
    values = {m: rng.normal(size=(*valid[m].shape, 8)) for m in CONTEXTS}
    contexts = {m: Stream(hidden(values[m], valid[m]), jnp.asarray(valid[m]), jnp.zeros(3), 1.0) for m in CONTEXTS}
    return Randomised(block, rng), rng.integers(0, 7, (3, 5)), contexts, values, valid


def attention(x, y, p, mask):
    """Two heads, one after the other; nothing seen is 0 before the last product."""
    query, key, value = dense(x, p["query"]), dense(y, p["key"]), dense(y, p["value"])
    found = np.zeros((len(x), 8))
    for row in range(len(x)):
        for part in (slice(0, 4), slice(4, 8)):
            seen = np.flatnonzero(mask[row])
            if len(seen):
                scores = query[row, part] @ key[seen, part].T / 2
                raised = np.exp(scores - scores.max())
                found[row, part] = raised / raised.sum() @ value[seen, part]
    return dense(found, p["out"])


def test_the_decoder_equals_its_equations(decoder):
    forward, labels, contexts, values, valid = decoder
    got = forward(jnp.asarray(labels), contexts)
    p = forward.weights
    layer = p["layers"][0]
    for row in range(3):
        s = p["embed"]["embedding"][labels[row]] + p["positions"][:5]
        normed = reference.layer_norm(s, layer["norm_self"])
        s = s + attention(normed, normed, layer["attend_self"], np.tri(5, dtype=bool))
        normed = reference.layer_norm(s, layer["norm_context"])
        heard = [
            attention(normed, values[m][row], layer["attend_context"][i], np.tile(valid[m][row], (5, 1)))
            for i, m in enumerate(CONTEXTS)
        ]
        s = s + dense(np.concatenate(heard, 1), layer["join"])
        raised = reference.gelu(dense(reference.layer_norm(s, layer["norm_feed_forward"]), layer["feed_forward"]["up"]))
        s = s + dense(raised, layer["feed_forward"]["down"])
        want = dense(reference.layer_norm(s, p["norm"]), p["classify"])
        np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-3)


def test_the_decoder_does_not_look_ahead(decoder):
    forward, labels, contexts, *_ = decoder
    later = labels.copy()
    later[:, 3:] = (later[:, 3:] + 1) % 7
    first, second = (np.asarray(forward(jnp.asarray(given), contexts)) for given in (labels, later))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).any()


def test_labels_that_are_not_there_change_nothing(decoder):
    forward, labels, contexts, *_ = decoder
    valid = np.ones((3, 5), bool)
    valid[:, 3:] = False
    odd = labels.copy()
    odd[:, 3:] = -5
    whole, cut = (forward(jnp.asarray(given), contexts, jnp.asarray(valid)) for given in (labels, odd))
    np.testing.assert_array_equal(whole, cut)
    forward.assert_finite(jnp.asarray(odd), contexts, jnp.asarray(valid))


def test_teacher_forcing_shifts_by_one():
    np.testing.assert_array_equal(heads.shift_right(jnp.array([[3, 4, 5]]), 9), [[9, 3, 4]])


def test_matching(rng):
    block = heads.MatchingHead(scale=4.0)
    assert_named(block)
    x, candidates = rng.normal(size=(3, 5)), rng.normal(size=(3, 2, 5))
    cosine = np.einsum("bc,bnc->bn", x, candidates) / (
        np.linalg.norm(x, axis=-1)[:, None] * np.linalg.norm(candidates, axis=-1)
    )
    given = jnp.asarray(x, jnp.float32), jnp.asarray(candidates, jnp.float32)
    np.testing.assert_allclose(block(*given), 4 * cosine, rtol=1e-4, atol=1e-5)
    valid = np.array([[True, True], [True, False], [False, False]])
    forward = Randomised(block, rng)
    args = hidden(x, valid.any(1)), hidden(candidates, valid), jnp.asarray(valid)
    got = np.asarray(forward(*args))
    scale = np.exp(forward.weights["log_scale"])
    np.testing.assert_allclose(got[valid], (scale * cosine)[valid], rtol=1e-4, atol=1e-5)
    assert (got[~valid] < -1e29).all()
    forward.assert_finite(*args)
    assert (np.asarray(block(jnp.zeros((1, 5)), jnp.zeros((1, 2, 5)))) == 0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_a_classifier_for_each_modality(rng, shared):
    block = heads.PerModalityHeads(CONTEXTS, 4, {"a": 3, "b": 2}, shared=shared, rngs=nnx.Rngs(0))
    forward = Randomised(block, rng)
    x = {m: rng.normal(size=(2, 4)) for m in CONTEXTS}
    present = {"audio": np.array([True, False]), "video": np.array([True, True])}
    args = {m: hidden(x[m], present[m]) for m in CONTEXTS}, {m: jnp.asarray(present[m]) for m in CONTEXTS}
    got = forward(*args)
    weights = forward.weights["classify"]
    assert set(weights) == ({"audio"} if shared else set(CONTEXTS))
    for m in CONTEXTS:
        for head in ("a", "b"):
            want = dense(x[m], weights["audio" if shared else m]["heads"][head]) * present[m][:, None]
            np.testing.assert_allclose(got[m][head], want, **TOLERANCE)
    forward.assert_finite(*args)


def test_heads_answer_in_float32(rng):
    x, valid = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((2, 3), bool)
    contexts = {"audio": Stream(x, valid, jnp.zeros(2), 1.0)}
    cases = [
        (heads.RegressionHead(8, {"a": 1}, hidden=4, rngs=nnx.Rngs(0)), (x,)),
        (heads.SegmentHead(8, 3, rngs=nnx.Rngs(0)), (x, valid)),
        (heads.AttentionDecoder(SIZE, 5, ("audio",), length=4, rngs=nnx.Rngs(0)), (jnp.ones((2, 2), int), contexts)),
        (heads.MatchingHead(), (x[:, 0], x)),
    ]
    for block, args in cases:
        forward = Randomised(block, rng)
        out = forward.compiled(as_bfloat16(forward.params), *args)
        assert all(y.dtype == jnp.float32 for y in (out.values() if isinstance(out, dict) else [out])), type(block)
