"""Mixup alone, against what it is defined to do."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from avjax.data.augment import Mixup, row_keys
from avjax.streams import Batch
from tests.data.augment.common import fresh_key, keys, stream


@functools.cache
def mixup(by_modality: bool = True):
    """Jitted (batch, key) -> batch; the tests share shapes, so that it compiles once.

    At alpha 2 no weight rounds to 1, which would hide who met whom.
    """
    return jax.jit(lambda batch, key: Mixup(2.0, by_modality)(batch, row_keys(key, batch.index), ("audio", "video")))


def features(rng, rows=8, absent=()) -> Batch:
    audio, video = (rng.normal(size=(rows, 5, 3)).astype(np.float32) for _ in range(2))
    hears = np.ones((rows, 5), bool)
    hears[list(absent)] = False
    audio[list(absent)] = 0
    streams = {"audio": stream(audio, hears), "video": stream(video)}
    there = (rng.random((rows, 5)) < 0.7).astype(np.float32)
    target = {"label": np.eye(rows, dtype=np.float32), "level": rng.normal(size=(rows, 2)).astype(np.float32)}
    target |= {"va": rng.normal(size=(rows, 5, 1)).astype(np.float32) * there[..., None], "va/valid": there}
    return Batch(streams, target, np.ones(rows, np.float32), np.arange(100, 100 + rows, dtype=np.int32))


@pytest.mark.parametrize("by_modality", [True, False])
@pytest.mark.slow
def test_mixup_is_the_blend_that_its_targets_say(rng, by_modality):
    """Row i's one-hot target names row i, so the mixed targets are the weights that the values must be blended with."""
    batch = features(rng, absent=[3])
    batch = batch.replace(weight=np.array([1, 1, 1, 1, 1, 0, 1, 1], np.float32))
    out = mixup(by_modality)(batch, fresh_key())
    weights = {name: np.asarray(out.target[f"label/{name}"]) for name in ("audio", "video")}
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.sum(1), 1, atol=1e-6)
        expected = np.einsum("ij,jtf->itf", weight, batch.streams[name].values)
        np.testing.assert_allclose(out.streams[name].values, expected, atol=1e-5)
        np.testing.assert_allclose(out.target[f"level/{name}"], weight @ batch.target["level"], atol=1e-5)
        np.testing.assert_array_equal(out.streams[name].valid, batch.streams[name].valid)
    assert weights["audio"][3, 3] == 1  # It has no sound to mix, and its partner's video is mixed all the same.
    assert (weights["audio"][:, 3] == np.eye(8)[3]).all()
    np.testing.assert_array_equal(weights["video"][5], np.eye(8)[5])  # The filler row.
    np.testing.assert_array_equal(weights["video"][:, 5], np.eye(8)[5])
    joint = (weights["audio"] + weights["video"]) / 2
    joint[3] = weights["video"][3]
    np.testing.assert_allclose(out.target["label"], joint, atol=1e-6)
    both = [i for i in range(8) if i not in (3, 5) and weights["audio"][i, i] < 1]
    assert len(both) >= 3
    same = np.isclose(weights["audio"][both], weights["video"][both]).all(1)
    assert same.all() != by_modality
    # The real rows form one ring: each is someone's partner exactly once.
    partner = np.where(weights["video"] - np.eye(8) > 0, 1, 0).sum(0)
    np.testing.assert_array_equal(np.delete(partner, 5), 1)
    assert partner[5] == 0
    np.testing.assert_array_equal(out.target["label"] @ np.ones(8), np.asarray(out.target["label"]).sum(1))


def test_mixup_pairs_change_with_the_key_and_not_with_the_order(rng):
    batch = features(rng)
    mix = mixup()
    first, second = fresh_key(), fresh_key()

    def partners(out, rows):
        mixed = np.asarray(out.target["label/video"])
        return {
            int(i): int(np.delete(np.arange(8), i)[np.delete(row, i).argmax()])
            for i, row in zip(rows, mixed, strict=True)
        }

    order = rng.permutation(8)
    shuffled = jax.tree.map(lambda leaf: leaf[order], batch)
    assert partners(mix(batch, first), range(8)) == partners(mix(shuffled, first), order)
    others = [partners(mix(batch, jax.random.fold_in(second, i)), range(8)) for i in range(4)]
    assert any(other != others[0] for other in others[1:])


def test_mixup_of_one_record_twice(rng):
    """Two crops of one record tie in hash and index; their start times settle it, in any order."""
    batch = features(rng)
    starts = np.array([0.0, 2.0, 1.0, 0.0, 3.0, 0.0, 0.0, 4.0], np.float32)
    streams = {name: s.replace(start=starts) for name, s in batch.streams.items()}
    batch = batch.replace(streams=streams, index=np.array([7, 7, 7, 9, 7, 5, 4, 4], np.int32))
    mix = mixup()
    order, key = rng.permutation(8), fresh_key()
    expected, out = mix(batch, key), mix(jax.tree.map(lambda leaf: leaf[order], batch), key)
    np.testing.assert_array_equal(out.target["label"], np.asarray(expected.target["label"])[order])
    np.testing.assert_array_equal(out.streams["video"].values, np.asarray(expected.streams["video"].values)[order])


def test_mixup_of_a_lone_row_and_of_fillers_only(rng):
    batch = features(rng)
    for weight in (np.eye(8)[2], np.zeros(8)):
        out = mixup()(batch.replace(weight=weight.astype(np.float32)), fresh_key())
        for name in ("audio", "video"):
            np.testing.assert_array_equal(out.streams[name].values, batch.streams[name].values)
            np.testing.assert_array_equal(out.target[f"label/{name}"], batch.target["label"])


def test_mixup_weight_is_beta(rng):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha)."""
    batch, key = features(rng), fresh_key()
    outs = [mixup()(batch, jax.random.fold_in(key, step)).target["label/video"] for step in range(60)]
    weight = np.concatenate([np.asarray(out).diagonal() for out in outs])
    np.testing.assert_allclose(weight.mean(), 0.5, atol=0.05)
    np.testing.assert_allclose(weight.var(), 0.05, atol=0.02)


@pytest.mark.slow
def test_mixup_of_some_rows(rng):
    batch = features(rng, rows=600)
    weight = np.asarray(Mixup(probability=0.25)(batch, keys(600), ("video",)).target["label/video"]).diagonal()
    np.testing.assert_allclose((weight < 1).mean(), 0.25, atol=0.1)


def test_mixup_of_labels_over_time(rng):
    """They blend where both rows have one; the tokens of a sequence cannot."""
    batch = features(rng)
    out, target = mixup()(batch, fresh_key()), batch.target
    there = target["va/valid"] > 0
    np.testing.assert_array_equal(out.target["va/valid"], there)
    partner = np.argmax(np.asarray(out.target["label"]) * (1 - np.eye(8)), 1)
    weight = np.asarray(out.target["label"])[np.arange(8), np.arange(8)]
    both = (there & there[partner])[..., None]
    blended = weight[:, None, None] * target["va"] + (1 - weight[:, None, None]) * target["va"][partner]
    np.testing.assert_allclose(out.target["va"], np.where(both, blended, target["va"]), atol=1e-5)
    with pytest.raises(ValueError, match="cannot blend the tokens of head 'letters'"):
        Mixup()(batch.replace(target={"letters": np.ones((8, 3), np.int32)}), keys(8), ("audio",))
