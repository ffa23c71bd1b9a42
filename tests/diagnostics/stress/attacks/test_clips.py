"""Attacks on clips through a probe: only values that are there change, and the model sees validity and rates."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.probe import reader_of
from avjax.diagnostics.stress.attacks.adversary import standard_autoattack
from avjax.diagnostics.stress.attacks.clips import adversary_of, attacked, inputs
from avjax.diagnostics.stress.attacks.gradient import PGD, fgsm
from avjax.diagnostics.stress.attacks.region import snr_radius
from avjax.streams import Stream, beside
from avjax.training.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Louder:
    """Class 1 where the valid samples' mean, of sound and of frames, is above 0.25; knows validity, start and rate."""

    def forward(self, streams):
        total = 0.0
        for name, rate in (("audio", 100.0), ("video", 25.0)):
            stream = streams[name]
            assert stream.rate == rate
            there = jnp.where(beside(stream.valid, stream.values), stream.values, 0)
            count = jnp.maximum(stream.valid.sum(axis=1) * there[0, 0].size, 1)
            total += there.reshape(len(there), -1).sum(axis=1) / count + 0 * stream.start
        return jnp.stack([0.25 - total, total - 0.25], axis=1)


def clips(rng: np.random.Generator) -> Clips:
    """Four clips: the last lacks frames, and the second's sound ends early; means of 0.2 and of 0.3."""
    sound = np.full((4, 6), 0.1, np.float32)
    frames = np.full((4, 3, 2, 2, 1), 0.1, np.float32)
    sound[2:] = 0.2
    there = np.ones((4, 6), bool), np.ones((4, 3), bool)
    there[0][1, 4:] = False
    there[1][3] = False
    sound[~there[0]], frames[~there[1]] = np.nan, rng.normal()
    streams = {
        "audio": Stream(sound, there[0], np.zeros(4, np.float32), 100.0),
        "video": Stream(frames, there[1], np.zeros(4, np.float32), 25.0),
    }
    return Clips(streams, np.array([0, 0, 1, 0]), ("a", "a", "b", "c"), np.arange(4))


def test_only_what_is_there_changes(rng):
    given = clips(rng)
    adversary = adversary_of(Louder().forward, given, (fgsm(),), batch=3)
    values, _ = inputs(given)
    assert set(values) == {"audio", "audio/valid", "audio/start", "video", "video/valid", "video/start"}
    assert (adversary.logits(values).argmax(axis=1) == given.label).all()
    # 0.2 + 0.03 + 0.03 crosses 0.25 and 0.2 + 0.03 does not; the last has its sound alone.
    for budget, fell in (
        ({"audio": 0.03, "video": 0.03}, [True, True, True, False]),
        ({"audio": 0.03}, [False] * 4),
        ({"audio": 0.06}, [True, True, True, True]),
    ):
        found, changed = attacked(adversary, given, budget)
        assert (~found.right).tolist() == fell
        for name, stream in changed.streams.items():
            clean = given.streams[name]
            assert stream.values[~clean.valid].tobytes() == clean.values[~clean.valid].tobytes()
            assert np.array_equal(stream.valid, clean.valid)
            if name not in budget:
                assert stream.values.tobytes() == clean.values.tobytes()
        assert (changed.label == given.label).all()


def test_features_have_no_box(rng):
    given = clips(rng)
    features = given.streams["audio"].replace(values=np.zeros((4, 6, 2), np.float32))
    adversary = adversary_of(Louder().forward, given.replace({"audio": features}), ())
    with pytest.raises(ValueError, match="no box is known for audio: budgets are of video"):
        attacked(adversary, given, {"audio": 0.1})


def test_a_ratio_of_each_clip(rng):
    """20 dB below sound of root mean square 0.1, or 0.2: 0.01, or 0.02; of valid samples alone."""
    given = clips(rng)
    sound = given.streams["audio"]
    assert snr_radius(sound.values, sound.valid, 20.0) == pytest.approx([0.01, 0.01, 0.02, 0.02])


@pytest.mark.slow
def test_a_trained_model(probe, run):
    """Through front end and model: budgets of 0 are the clean predictions, and gradients reach samples and pixels."""
    reader = reader_of(Trained.load(run.path), probe.head, "test")
    given = reader.read(reader.choose(6))
    predicted = probe.logits(given).argmax(axis=1)
    given = dataclasses.replace(given, label=predicted)
    names = [name for name in given.streams if name in ("audio", "video")]
    assert names
    nothing, same = attacked(adversary_of(probe.forward, given, (PGD(steps=2),)), given, dict.fromkeys(names, 0.0))
    assert nothing.right.all()
    found, changed = attacked(adversary_of(probe.forward, given, (PGD(steps=2),)), given, dict.fromkeys(names, 0.5))
    assert (found.margin <= nothing.margin).all()
    for name in names:
        stream = given.streams[name]
        assert same.streams[name].values.tobytes() == stream.values.tobytes()
        away = np.abs(changed.streams[name].values - stream.values)
        assert away.max() <= 0.5 + 1e-6
        assert (away[stream.valid].any() and not away[~stream.valid].any()) or not stream.valid.any()
    ensemble = adversary_of(probe.forward, given, standard_autoattack(steps=2, queries=3))
    broken, worst = attacked(ensemble, given, dict.fromkeys(names, 0.5))
    assert (probe.logits(worst).argmax(axis=1) == broken.predicted).all()
