"""Agreement against scikit-learn, SciPy and planted models."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.spatial.distance
import sklearn.metrics

from avjax.diagnostics.consistency.agreement import (
    agreement,
    any_confusion,
    kappa,
    modality_confusion,
    negative_flips,
    positive_flips,
    soft_agreement,
    top_overlap,
)
from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.drift.divergence import jensen_shannon
from avjax.diagnostics.measured import Undefined, measured

seeds = st.integers(0, 2**32 - 1)


def test_identical_under_corruption(rng):
    """KA: the same logits: PA = 1, SC = 1, kappa = 1."""
    p = probabilities(rng.normal(size=(50, 7)))
    same = p.argmax(axis=1)
    assert agreement(same, same) == kappa(same, same) == 1
    np.testing.assert_array_equal(soft_agreement(p, p), np.ones(50))
    np.testing.assert_array_equal(top_overlap(p, p), np.ones(50))


def test_a_constant_predictor_agrees_and_has_no_kappa():
    """KA: PA = 1, kappa null with its reason."""
    constant = np.full(40, 3)
    assert agreement(constant, constant) == 1
    with pytest.raises(Undefined, match="one class"):
        kappa(constant, constant)
    fields = {"id": "kappa", "version": 1, "estimator": "argmax", "unit": "share", "direction": "higher"}
    line = measured(lambda rows: kappa(constant[rows], constant[rows]), np.arange(40), **fields)
    assert line.value is None
    assert "one class" in line.reason


def test_one_constant_side_has_kappa_zero(rng):
    """Chance already explains all its agreement."""
    varied, constant = rng.integers(0, 4, 60), np.full(60, 2)
    varied[:2] = [2, 1]
    assert kappa(varied, constant) == kappa(constant, varied) == 0
    assert kappa(np.full(60, 1), constant) == 0


@hypothesis.given(seeds, st.integers(2, 60), st.integers(2, 6))
def test_kappa_is_cohens(seed, count, classes):
    rng = np.random.default_rng(seed)
    one = rng.integers(0, classes, count)
    other = np.where(rng.random(count) < 0.5, one, rng.integers(0, classes, count))
    one[:2] = [0, 1]
    value = kappa(one, other)
    assert value == pytest.approx(sklearn.metrics.cohen_kappa_score(one, other), abs=1e-12)
    assert value == kappa(other, one) <= agreement(one, other)
    names = rng.permutation(classes)
    assert kappa(names[one], names[other]) == value
    # PA = kappa + p_e (1 - kappa), from the definition.
    chance = sum((one == k).mean() * (other == k).mean() for k in range(classes))
    assert agreement(one, other) == pytest.approx(value + chance * (1 - value), abs=1e-12)


@hypothesis.example(41, 9, 9, 281.25)
@hypothesis.given(seeds, st.integers(1, 12), st.integers(2, 9), st.floats(0.1, 300))
def test_jensen_shannon_is_scipys(seed, count, classes, scale):
    """Large scales make probabilities that are exactly 0."""
    rng = np.random.default_rng(seed)
    p, q = (probabilities(rng.normal(scale=scale, size=(count, classes))) for _ in range(2))
    # Where half of the smallest number is 0, scipy divides by it.
    p, q = (np.where(x < 1e-300, 0, x) for x in (p, q))
    divergence = jensen_shannon(p, q)
    # scipy takes the root of what rounding may leave below 0.
    with np.errstate(invalid="ignore"):
        distance = scipy.spatial.distance.jensenshannon(p, q, base=2, axis=1)
    np.testing.assert_allclose(divergence, np.nan_to_num(distance) ** 2, atol=1e-12)
    np.testing.assert_array_equal(divergence, jensen_shannon(q, p))
    assert (divergence >= 0).all()
    assert (divergence <= 1).all()
    np.testing.assert_array_equal(soft_agreement(p, q), 1 - divergence)


def test_jensen_shannon_in_closed_form():
    """Disjoint 1 bit; a certain class against a fair coin with it 3/2 - (3/4) log2 3 bits."""
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.25, 0.75]])
    q = np.array([[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(jensen_shannon(p, q), [1, 1.5 - 0.75 * np.log2(3), 0], atol=1e-15)


def test_the_model_is_its_audio_tower(rng):
    """KA: what the model says with both is what it says of audio: PA_v = SC_v = 1; XC depends on the v head alone."""
    audio, video = rng.normal(size=(2, 200, 5))
    audio_head, video_head, other_video_head = rng.normal(size=(3, 5, 8))

    def model(parts, head):
        return probabilities(parts["a"] @ audio_head if "a" in parts else parts["v"] @ head)

    full, without_video = (model(parts, video_head) for parts in ({"a": audio, "v": video}, {"a": audio}))
    assert agreement(full.argmax(axis=1), without_video.argmax(axis=1)) == 1
    assert soft_agreement(full, without_video).mean() == 1
    consistency = [soft_agreement(without_video, model({"v": video}, head)) for head in (video_head, other_video_head)]
    assert (consistency[0] != consistency[1]).all()
    # A video head that says what audio says: XC = 1.
    assert soft_agreement(without_video, model({"v": audio}, audio_head)).mean() == 1


@hypothesis.given(seeds, st.integers(1, 10), st.integers(6, 12), st.integers(1, 5))
def test_top_overlap_is_of_sets(seed, count, classes, k):
    rng = np.random.default_rng(seed)
    p, q = rng.random((2, count, classes))
    value = top_overlap(p, q, k)
    for row in range(count):
        top = [set(sorted(range(classes), key=lambda c, each=each: -each[row, c])[:k]) for each in (p, q)]
        assert value[row] == len(top[0] & top[1]) / k
    np.testing.assert_array_equal(value, top_overlap(q, p, k))
    # Only the order counts.
    np.testing.assert_array_equal(value, top_overlap(p**3, q**3, k))


def test_top_overlap_of_all_classes_says_nothing():
    with pytest.raises(Undefined, match="all of them"):
        top_overlap(np.eye(5), np.eye(5))
    assert top_overlap(np.eye(6), np.eye(6)).tolist() == [1] * 6
    # Ties go to the smaller class: 0 to 4 against 0 to 3 and 5.
    assert top_overlap(np.zeros((1, 6)), np.eye(6)[5:]).tolist() == [0.8]


@hypothesis.given(seeds, st.integers(1, 50))
def test_flips_account_for_the_change_of_accuracy(seed, count):
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, count)) < 0.6
    lost, won = negative_flips(before, after), positive_flips(before, after)
    assert before.mean() - after.mean() == pytest.approx(lost - won, abs=1e-12)
    assert lost == sum(b and not a for b, a in zip(before, after, strict=True)) / count
    assert (lost, won) == (positive_flips(after, before), negative_flips(after, before))
    assert negative_flips(before, before) == 0


def test_a_perfect_joint_model_confuses_nothing(rng):
    """KA of 1.10: perfect joint -> mu = 0."""
    single = {name: rng.random(80) < 0.5 for name in ("audio", "video")}
    joint = np.ones(80, bool)
    assert modality_confusion(single, joint) == {"audio": 0, "video": 0}
    assert any_confusion(single, joint) == 0


def test_a_joint_model_that_is_its_audio_model(rng):
    """KA of 1.10: mu_A = 0, mu_V = 100 P(v right, a wrong)."""
    audio, video = rng.random((2, 500)) < np.array([[0.6], [0.5]])
    single = {"audio": audio, "video": video}
    share = 100 * sum(v and not a for a, v in zip(audio, video, strict=True)) / 500
    assert modality_confusion(single, audio) == {"audio": 0, "video": pytest.approx(share, abs=1e-12)}
    assert any_confusion(single, audio) == pytest.approx(share, abs=1e-12)


@hypothesis.given(seeds, st.integers(1, 60), st.integers(1, 4))
def test_confusion_of_any_lies_between_the_largest_and_the_sum(seed, count, modalities):
    rng = np.random.default_rng(seed)
    single = {f"m{m}": rng.random(count) < 0.5 for m in range(modalities)}
    joint = rng.random(count) < 0.5
    each, together = list(modality_confusion(single, joint).values()), any_confusion(single, joint)
    assert max(each) <= together <= sum(each) + 1e-9
    assert together <= 100 * (1 - joint.mean()) + 1e-9


def test_of_no_rows_nothing_is_said():
    none, never = np.zeros(0, int), np.zeros(0, bool)
    for call in (lambda: agreement(none, none), lambda: kappa(none, none), lambda: negative_flips(never, never)):
        with pytest.raises(Undefined, match="no rows"):
            call()
