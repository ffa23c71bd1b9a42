"""What is taken away before a model is trained again."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from avjax.diagnostics.faithfulness.retraining import counts, permuted, pooled, without_top

GROUPS = ("audio",) * 4 + ("video",) * 6


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_top_share_of_each_modality_goes(share, seed):
    saliency = np.random.default_rng(seed).normal(size=(5, len(GROUPS)))
    kept = without_top(saliency, GROUPS, share)
    for name, count in counts(GROUPS, share).items():
        own = np.array([group == name for group in GROUPS])
        assert ((~kept[:, own]).sum(axis=1) == count).all()
        for row, left in zip(saliency[:, own], kept[:, own], strict=True):
            assert not count or count == len(row) or row[~left].min() > row[left].max()


def test_shares_are_of_whole_players():
    assert counts(("audio",) * 16 + ("video",) * 16, 0.1) == {"audio": 2, "video": 2}
    assert counts(GROUPS, 0.0) == {"audio": 0, "video": 0}
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        counts(GROUPS, 10.0)


def test_of_equal_players_the_earlier_goes():
    kept = without_top(np.zeros((2, len(GROUPS))), GROUPS, 0.5)
    np.testing.assert_array_equal(kept, [[False, False, True, True] + [False] * 3 + [True] * 3] * 2)


def test_labels_are_permuted(rng):
    label = rng.integers(0, 8, 200)
    found = permuted(label, seed=3)
    np.testing.assert_array_equal(np.sort(found), np.sort(label))
    np.testing.assert_array_equal(found, permuted(label, seed=3))
    assert (found != permuted(label, seed=4)).any()
    # Of 8 classes about one clip in eight keeps its own; 5 standard deviations.
    assert abs((found == label).mean() - 1 / 8) < 5 * np.sqrt(7 / 64 / 200) + 0.05


def test_saliency_is_summed_over_players(rng):
    """Of pictures pixel by pixel; of a spectrogram each frame is the player's in whose samples its middle lies."""
    amounts = rng.random((3, 2, 4, 4))
    where = np.repeat([4, 5], 16).reshape(2, 4, 4)
    np.testing.assert_allclose(pooled(amounts, where, 6)[:, 4:], amounts.sum(axis=(2, 3)))
    spectrogram = rng.random((3, 8, 5))
    found = pooled(spectrogram, np.repeat(np.arange(4), 100), 6)
    np.testing.assert_allclose(found[:, :4], spectrogram.reshape(3, 4, 10).sum(axis=2))
    assert not found[:, 4:].any()
    with pytest.raises(ValueError, match="does not lie on"):
        pooled(amounts, where[:, :2], 6)
