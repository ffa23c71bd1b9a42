"""What rows lose: never the last modality, never the ends, and the shares that were asked for."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from avjax.data.augment import ModalityDropout, SoftHard, TemporalErasing, row_keys
from avjax.streams import Batch, Stream
from tests.data.augment.common import fresh_key, stream

ROWS = 4000
NAMES = ("audio", "video")


@functools.cache
def jitted(change):
    return jax.jit(lambda batch, key: change(batch, row_keys(key, batch.index), NAMES))


def batch(rng, rows=ROWS, absent=slice(0, 0), steps=3) -> Batch:
    values = {name: rng.uniform(1, 2, size=(rows, steps, 2)).astype(np.float32) for name in NAMES}
    streams = {name: stream(array) for name, array in values.items()}
    valid = np.ones((rows, steps), bool)
    valid[absent] = False
    streams["video"] = stream(np.where(valid[..., None], values["video"], 0), valid)
    return Batch(streams, {}, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))


def test_each_modality_is_lost_equally_often_and_the_last_never(rng):
    absent = slice(0, ROWS // 4)
    made = batch(rng, absent=absent)
    out = jitted(ModalityDropout(drop=0.5))(made, fresh_key())
    audio, video = (np.asarray(out.streams[name].valid).any(1) for name in NAMES)
    assert audio[absent].all()
    whole = slice(ROWS // 4, None)
    assert (audio | video).all()
    # Binomial shares of 3000 rows: five standard deviations.
    for lost in (~audio[whole], ~video[whole]):
        assert abs(lost.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 3000)
    for name, there in zip(NAMES, (audio, video), strict=True):
        values = np.asarray(out.streams[name].values)
        np.testing.assert_array_equal(values[there], np.asarray(made.streams[name].values)[there])
        assert (values[~there] == 0).all()


def test_softened_rows_share_one_weight(rng):
    made = batch(rng)
    out = jitted(ModalityDropout(drop=0.0, soft=1.0))(made, fresh_key())
    shares = [
        np.asarray(out.streams[name].values)[:, 0, 0] / np.asarray(made.streams[name].values)[:, 0, 0] for name in NAMES
    ]
    np.testing.assert_allclose(sum(shares), 1, atol=1e-5)
    assert 0.45 < shares[0].mean() < 0.55


def test_every_row_in_all_four_forms(rng):
    made = batch(rng, absent=slice(0, 10)).replace(target={"label": rng.normal(size=(ROWS, 2))})
    out = jitted(SoftHard())(made, fresh_key())
    np.testing.assert_array_equal(out.index, np.repeat(made.index, 4))
    np.testing.assert_allclose(out.target["label"][3::4], made.target["label"], rtol=1e-6)
    forms = {}
    for name in NAMES:
        values = made.streams[name].values
        ratio = np.asarray(out.streams[name].values)[:, 0, 0] / np.repeat(np.where(values, values, 1)[:, 0, 0], 4)
        forms[name] = ratio.reshape(ROWS, 4)[10:]
        np.testing.assert_array_equal(out.streams[name].valid, np.repeat(made.streams[name].valid, 4, axis=0))
    share = forms["audio"][:, 1]
    np.testing.assert_allclose(share, np.round(100 * share) / 100, atol=1e-5)
    assert 0 <= share.min() < 0.05 < 0.9 < share.max() < 0.995
    np.testing.assert_allclose(forms["video"][:, 1], 1 - share, atol=1e-5)
    np.testing.assert_allclose(forms["audio"][:, [0, 2, 3]], np.tile([1, 0, 1], (ROWS - 10, 1)), atol=1e-6)
    np.testing.assert_allclose(forms["video"][:, [0, 2, 3]], np.tile([1, 1, 0], (ROWS - 10, 1)), atol=1e-6)


@pytest.mark.parametrize("fill", ["zero", "noise"])
def test_filled_rows_stay_valid(rng, fill):
    made = batch(rng)
    out = jitted(ModalityDropout(drop=1.0, fill=fill))(made, fresh_key())
    audio, video = (np.asarray(out.streams[name].values) for name in NAMES)
    lost = (audio != np.asarray(made.streams["audio"].values)).all((1, 2))
    assert np.asarray(out.streams["audio"].valid).all()
    assert 0.4 < lost.mean() < 0.6
    deviation = audio[lost].std()
    assert deviation == 0 if fill == "zero" else 0.9 < deviation < 1.1
    assert (video[lost] == np.asarray(made.streams["video"].values)[lost]).all()


def test_draws_belong_to_rows(rng):
    made, key = batch(rng, rows=64), fresh_key()
    for change in (ModalityDropout(0.5, 0.25), TemporalErasing(0.5)):
        out = jitted(change)(made, key)
        order = np.argsort(rng.random(64))
        moved = jitted(change)(jax.tree.map(lambda x, order=order: x[order], made), key)
        for name in NAMES:
            np.testing.assert_array_equal(moved.streams[name].valid, np.asarray(out.streams[name].valid)[order])


def test_shares_beyond_one_are_refused():
    with pytest.raises(ValueError, match="add up to 1 at most"):
        ModalityDropout(drop=0.8, soft=0.4)


def timed(rng, rows=400) -> Batch:
    """Two seconds of sound at 10 Hz and of pictures at 5 Hz, half a second later."""
    streams = {
        "audio": Stream(
            np.ones((rows, 20, 1), np.float32), np.ones((rows, 20), bool), np.zeros(rows, np.float32), 10.0
        ),
        "video": Stream(
            np.ones((rows, 10, 1), np.float32), np.ones((rows, 10), bool), np.full(rows, 0.5, np.float32), 5.0
        ),
    }
    return Batch(streams, {}, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))


@pytest.mark.parametrize("kind", ["random", "structured", "block"])
def test_erases_its_share_and_keeps_the_ends(rng, kind):
    out = jitted(TemporalErasing(0.4, kind))(timed(rng), fresh_key())
    for name in NAMES:
        valid = np.asarray(out.streams[name].valid)
        assert valid[:, 0].all()
        assert valid[:, -1].all()
        assert (np.asarray(out.streams[name].values)[~valid] == 0).all()
    inner = ~np.asarray(out.streams["audio"].valid)[:, 1:-1]
    assert abs(inner.mean() - 0.4) < 0.1
    audio, video = (np.asarray(out.streams[name].valid) for name in NAMES)
    # What is heard at 0.5 s + n / 5 Hz begins with what is seen then.
    together = audio[:, 5 + 2 * np.arange(7)], video[:, :7]
    same = (together[0] == together[1])[:, 1:].mean()
    assert same == 1 if kind != "random" else same < 0.7
    if kind == "block":
        assert (np.diff(inner.astype(int), axis=1) == 1).sum(1).max() <= 1
