"""Linear probes against scikit-learn, and what they must tell and must not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from avjax.diagnostics.contribution.probing import linear_probe, probe_hits
from avjax.diagnostics.measured import Undefined


@pytest.mark.parametrize("classes", [2, 5])
def test_equals_scikit_learn(classes, rng):
    features, label = rng.normal(size=(80, 6)), rng.integers(0, classes, 80)
    label[:classes] = np.arange(classes)
    features += np.eye(classes, 6)[label]
    decay = rng.uniform(0.1, 10)
    weights, bias = linear_probe(features, label, classes, decay=decay)
    peer = LogisticRegression(C=1 / decay, tol=1e-10, max_iter=10_000).fit(features, label)
    expected = peer.decision_function(features)
    logits = features @ weights + bias
    if classes == 2:
        # One logit stands for two there; here the weights of both are shrunk, each half of the difference.
        peer = LogisticRegression(C=2 / decay, tol=1e-10, max_iter=10_000).fit(features, label)
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], peer.decision_function(features), atol=1e-4)
    else:
        centred = [x - x.mean(axis=1, keepdims=True) for x in (logits, expected)]
        np.testing.assert_allclose(*centred, atol=1e-4)


def test_what_the_features_say_is_told_and_what_they_do_not_is_not(rng):
    label = rng.integers(0, 4, 200)
    source = [f"video {row}" for row in range(200)]
    assert probe_hits(np.eye(4)[label], label, source).all()
    # The same in all rows: the commonest class of the others.
    constant = probe_hits(np.ones((200, 3)), label, source)
    assert constant.mean() < 0.45
    scaled = probe_hits(np.eye(4)[label] * 1e-6 + 1e3, label, source)
    assert scaled.all()


def test_clips_of_a_video_are_not_told_by_each_other(rng):
    """Every video has its place and its class by chance: to know the place would be to know the class."""
    place = rng.normal(size=(60, 80))
    video, of_video = np.repeat(np.arange(60), 5), rng.integers(0, 2, 60)
    label = of_video[video]
    features = place[video] + 0.01 * rng.normal(size=(300, 80))
    assert probe_hits(features, label, [str(v) for v in range(300)]).mean() > 0.95
    assert probe_hits(features, label, [str(v) for v in video]).mean() < 0.75


def test_a_class_that_is_met_first_where_it_is_asked_is_wrong(rng):
    label = np.array([0, 0, 0, 1, 1, 1, 2])
    features = rng.normal(size=(7, 2)) + 10 * np.eye(3, 2)[label]
    right = probe_hits(features, label, list("abcdefg"), folds=7)
    assert not right[6]


def test_one_video_has_no_other_to_learn_from(rng):
    with pytest.raises(Undefined, match="there is one"):
        probe_hits(rng.normal(size=(4, 2)), np.array([0, 1, 0, 1]), ["a"] * 4)
