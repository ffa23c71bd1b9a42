"""Rules of decision by hand, with ties and missing modalities; learned rules where they start."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion.decision import RULES, DecisionFusion, LabelSpaceFusion
from avjax.nn.pooling import mean_of_present
from tests.nn.randomised import Randomised, assert_named

NAMES = ("video", "audio", "touch")
LEARNED = ("weighted", "stacking", "calibrated")


def fused(kind, probabilities, present=None):
    """Probabilities out, of probabilities in: modality -> [B, K]."""
    names = tuple(probabilities)
    block = DecisionFusion(kind, names, len(next(iter(probabilities.values()))[0]), rngs=nnx.Rngs(0))
    logits = {m: jnp.log(jnp.asarray(p, jnp.float32)) + 3 for m, p in probabilities.items()}
    present = None if present is None else {m: jnp.asarray(p) for m, p in zip(names, present, strict=True)}
    return np.asarray(block(logits, present))


HALF = {"video": [[0.5, 0.3, 0.2]], "audio": [[0.1, 0.6, 0.3]]}


def test_rules_by_hand():
    np.testing.assert_allclose(np.exp(fused("average", HALF)), [[0.3, 0.45, 0.25]], rtol=1e-5)
    product = np.array([0.05, 0.18, 0.06])
    np.testing.assert_allclose(np.exp(fused("product", HALF)), [product / product.sum()], rtol=1e-5)
    largest = np.array([0.5, 0.6, 0.3])
    np.testing.assert_allclose(np.exp(fused("max", HALF)), [largest / largest.sum()], rtol=1e-5)
    # One vote for class 0, one for class 1, a tie that the mean probability breaks.
    np.testing.assert_allclose(np.exp(fused("vote", HALF)), [[1.3 / 3, 1.45 / 3, 0.25 / 3]], rtol=1e-5)


def test_votes_outweigh_confidence_and_ties_go_to_it():
    third = [[0.01, 0.01, 0.98]]
    two_to_one = {"a": [[0.4, 0.35, 0.25]], "b": [[0.4, 0.35, 0.25]], "c": third}
    assert fused("vote", two_to_one).argmax() == 0
    assert fused("average", two_to_one).argmax() == 2
    # Within a modality the first of equally likely classes has the vote.
    tie = fused("vote", {"a": [[0.4, 0.4, 0.2]], "b": [[0.2, 0.4, 0.4]]})
    np.testing.assert_allclose(np.exp(tie), [[1.3 / 3, 1.4 / 3, 0.3 / 3]], rtol=1e-5)


@pytest.mark.parametrize("kind", [*RULES, *LEARNED])
def test_the_missing_have_no_say(rng, kind):
    patterns = np.array(list(itertools.product([True, False], repeat=3)))
    logits = {m: rng.normal(size=(8, 4)).astype(np.float32) for m in NAMES}
    block = DecisionFusion(kind, NAMES, 4, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    dirty = {
        m: jnp.asarray(np.where(there[:, None], x, np.nan))
        for (m, x), there in zip(logits.items(), patterns.T, strict=True)
    }
    args = dirty, {m: jnp.asarray(there) for m, there in zip(NAMES, patterns.T, strict=True)}
    got = np.asarray(forward(*args))
    assert (got[-1] == 0).all()
    forward.assert_finite(*args)
    for row, pattern in enumerate(patterns[:-1]):
        those = [m for m, there in zip(NAMES, pattern, strict=True) if there]
        x = np.stack([logits[m][row].astype(float) for m in those])
        np.testing.assert_allclose(got[row], by_hand(kind, x, pattern, forward.weights), rtol=1e-4, atol=1e-4)


def by_hand(kind, x, pattern, w):
    """One example, of the modalities that there are."""
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    number = len(x)
    match kind:
        case "average":
            return np.log(p.mean(0))
        case "product":
            return np.log(p.prod(0) / p.prod(0).sum())
        case "max":
            return np.log(p.max(0) / p.max(0).sum())
        case "vote":
            votes = np.bincount(p.argmax(1), minlength=4)
            return np.log((votes + p.mean(0)) / (number + 1))
        case "weighted":
            share = np.exp(w["weight"][pattern])
            return share @ x / share.sum()
        case "stacking":
            given = np.zeros((3, 4))
            given[pattern] = x
            return given.ravel() @ w["stack"]["kernel"] + w["stack"]["bias"]
        case "calibrated":
            return (w["scale"][pattern][:, None] * x + w["offset"][pattern]).sum(0)


def test_where_the_learned_rules_start(rng):
    logits = {m: jnp.asarray(rng.normal(size=(2, 4)), jnp.float32) for m in NAMES}
    everyone = {m: jnp.ones(2, bool) for m in NAMES}
    mean = mean_of_present(logits, everyone)
    for kind, want in (("weighted", mean), ("stacking", mean), ("calibrated", 3 * mean)):
        np.testing.assert_allclose(DecisionFusion(kind, NAMES, 4, rngs=nnx.Rngs(0))(logits), want, rtol=1e-5, atol=1e-6)


def test_calibration_takes_one_score(rng):
    block = DecisionFusion("calibrated", ("a", "b"), 1, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block({"a": jnp.array([[2.0]]), "b": jnp.array([[-0.5]])}), [[1.5]])


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from(list(RULES)))
@pytest.mark.slow
def test_rules_give_distributions_for_any_logits(seed, kind):
    rng = np.random.default_rng(seed)
    logits = {m: jnp.asarray(rng.normal(size=(3, 4)) * 10 ** rng.uniform(-3, 3), jnp.float32) for m in NAMES}
    rule = DecisionFusion(kind, NAMES, 4, rngs=nnx.Rngs(0))
    got = np.asarray(rule(logits), np.float64)
    np.testing.assert_allclose(np.exp(got).sum(1), 1, rtol=1e-4)
    assert np.isfinite(got).all()
    assert np.isfinite(np.asarray(jax.grad(lambda x: jnp.sin(rule(x)).sum())(logits)["audio"])).all()


def test_label_space(rng):
    block = LabelSpaceFusion(("video", "audio"), 3, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    logits = {m: rng.normal(size=(3, 3)).astype(np.float32) for m in ("audio", "video")}
    present = {"audio": np.array([True, False, False]), "video": np.array([True, True, False])}
    p = {m: np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(1, keepdims=True) for m, x in logits.items()}
    p["audio"][1] = 1 / 3
    tensor = np.einsum("ni,nj->nij", p["video"], p["audio"]).reshape(3, 9)
    want = tensor @ forward.weights["project"]["kernel"] + forward.weights["project"]["bias"]
    args = (
        {m: jnp.asarray(np.where(present[m][:, None], x, np.inf)) for m, x in logits.items()},
        {m: jnp.asarray(v) for m, v in present.items()},
    )
    got = forward(*args)
    np.testing.assert_allclose(got[:2], want[:2], rtol=1e-4, atol=1e-5)
    assert (np.asarray(got[2]) == 0).all()
    forward.assert_finite(*args)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="two classes or more, not 1"):
        DecisionFusion("vote", NAMES, 1, rngs=nnx.Rngs(0))
