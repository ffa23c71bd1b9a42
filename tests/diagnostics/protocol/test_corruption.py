"""Drift under corruption and offsets, of models of raw sound and frames whose saliency is known."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.diagnosis.arrays import ATTENDED
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.protocol.alignment import offsets
from avjax.diagnostics.protocol.corruption import corruptions
from avjax.diagnostics.protocol.looking import Looking
from avjax.diagnostics.protocol.saliency import ROLLOUT, STATE
from avjax.diagnostics.protocol.study import Found
from avjax.diagnostics.stress.corruption import corrupted
from avjax.nn.attention import attend, cross_mask
from kernels.attention import Layout
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, TIER, clips_of, study_of
from tests.models.planted import CASES, MODALITIES

ROWS = 12
SEVERITIES = (1, 2, 3, 4, 5)
NOISES = {"audio": "audio/white_noise", "video": "video/gaussian_noise"}
UNDER = dataclasses.replace(
    TIER, drift=True, relevance=True, severities=SEVERITIES, corruptions=tuple(NOISES.values()), stressed=None
)


def noisy_clips(rng: np.random.Generator, side: int = SIDE) -> Clips:
    """Sound and pictures of one sign, well above and below the middle."""
    label = rng.permutation(np.resize([0, 1], ROWS))
    sign = 2.0 * label - 1
    sound = sign[:, None] * rng.uniform(0.2, 0.6, (ROWS, SAMPLES))
    frames = 0.5 + 0.2 * sign[:, None, None, None, None] * np.ones((ROWS, FRAMES, side, side, 1))
    return clips_of(sound, frames, label)


def of(found: Found, id: str, **fields) -> list[Measured]:
    lines = [line for line in found.lines if line.id == id]
    condition = {"corruption", "severity"}
    return [
        line for line in lines
        if all(getattr(line.condition if name in condition else line, name, None) == own
               for name, own in fields.items())
    ]  # fmt: skip


def hears(tokens):
    """T1 of raw clips."""
    return 4 * tokens["audio"].values.mean(axis=1)


def gated(sign: float):
    """T6 and T7 of raw clips: attention by how much a clip's sound, and its pictures, vary."""

    def decide(tokens):
        sound, frames = tokens["audio"].values, tokens["video"].values
        value = {"audio": sound, "video": frames.mean(axis=(2, 3, 4)) - 0.5}
        # Between neighbours: what varies slowly is no noise.
        noise = {
            "audio": jnp.square(sound - sound.mean(axis=1, keepdims=True)).mean(axis=1),
            "video": jnp.square(frames - frames.mean(axis=(1, 2, 3, 4), keepdims=True)).mean(axis=(1, 2, 3, 4)),
        }
        key = jnp.concatenate([sign * 4 * noise[m][:, None] * jnp.ones_like(value[m]) for m in MODALITIES], axis=1)
        valid = jnp.concatenate([tokens[m].valid for m in MODALITIES], axis=1)
        mask = cross_mask(Layout.of(query=1), Layout(MODALITIES, (SAMPLES, FRAMES)), valid)
        values = jnp.concatenate([value[m] for m in MODALITIES], axis=1)
        query = jnp.ones((key.shape[0], 1, 1, 1))
        return 32 * attend(query, key[..., None, None], values[..., None, None], mask, site="decision")[:, 0, 0, 0]

    return decide


def test_what_is_only_heard_does_not_drift_with_the_pictures(rng):
    """T1: under noise in the pictures nothing moves, and nothing follows; under noise in the sound it moves within."""
    found = corruptions(study_of(hears, noisy_clips(rng), UNDER))
    low, high = CASES["T1 audio only"].expected["drift.allocation.video_noise"]
    for severity in SEVERITIES:
        (line,) = of(found, "drift/cmsd_allocation", corruption=NOISES["video"], severity=severity, estimator=STATE)
        assert low <= line.value <= high
        (line,) = of(found, "drift/cmsd", corruption=NOISES["video"], severity=severity, estimator=STATE)
        assert line.value == pytest.approx(0, abs=1e-12)
        (line,) = of(found, "drift/cmsd_localisation", corruption=NOISES["audio"], severity=severity, group="audio",
                     estimator=STATE)  # fmt: skip
        assert line.value > 0
    for name in NOISES:
        (line,) = of(found, "drift/rfi", group=name, estimator=STATE)
        assert line.status == "undefined"
    (line,) = of(found, "stress/retention", group="video")
    assert (line.value, line.condition.severity) == (1, 5)
    assert "severity 5" in line.estimator
    # Attention there is none.
    (line,) = [line for line in found.lines if line.estimator == ROLLOUT]
    assert "no call of attention" in line.reason
    within = of(found, "drift/cmsd_localisation", corruption=NOISES["audio"], group="audio", estimator=STATE)
    raw = found.arrays[f"drift/raw/{NOISES['audio']}"]
    np.testing.assert_allclose(raw.mean(axis=1), [line.value for line in within], atol=1e-12)
    assert (np.diff(raw.mean(axis=1)) > 0).all()
    np.testing.assert_allclose(found.arrays[f"drift/mass/{NOISES['audio']}"][..., 0], 1)
    assert found.arrays[f"drift/localisation/{NOISES['audio']}"].shape == (5, ROWS, 2)
    (whole,) = of(found, "drift/cmsd_severity_raw", condition=None)
    assert whole.value == pytest.approx(raw.mean() / 2)
    (floor,), (ceiling,) = (of(found, f"drift/cmsd_severity_{end}") for end in ("floor", "ceiling"))
    assert 0 <= floor.value < 1e-4 < ceiling.value
    score = np.clip((raw - floor.value) / (ceiling.value - floor.value), 0, 1)
    np.testing.assert_allclose(found.arrays[f"drift/score/{NOISES['audio']}"], score, atol=1e-12)
    (headline,) = of(found, "drift/cmsd_severity", condition=None)
    assert headline.value == pytest.approx(score.mean() / 2)
    (line,) = of(found, "drift/total_variation", corruption=NOISES["video"], severity=5)
    assert line.value == pytest.approx(0, abs=1e-12)
    (line,) = of(found, "drift/earth_mover_time", corruption=NOISES["video"], severity=5)
    assert line.value == pytest.approx(0, abs=1e-12)
    # What modalities contribute, under every condition and of the clips as they are.
    shares = of(found, "contribution/gradient_x_input")
    assert {line.value for line in shares if line.group == "video"} == {0}
    assert [line.value for line in shares if line.group == "audio"] == pytest.approx([1] * (2 * len(SEVERITIES) + 1))
    assert [line.condition for line in shares[:2]] == [None, None]
    attended = of(found, "contribution/attention_share")
    assert [line.status for line in attended] == ["skipped"] * (1 + len(NOISES))
    assert "no attention" in attended[0].reason
    # Without sound class 0 is told of every clip, half of them rightly; so it is by whoever guesses.
    for id, (heard, seen) in {"necessity": (0.5, 0), "sufficiency": (0.5, 0)}.items():
        for group, expected in (("audio", heard), ("video", seen)):
            (line,) = of(found, f"contribution/{id}", corruption=NOISES["video"], group=group)
            assert line.condition.severity == 5
            assert line.value == pytest.approx(expected)
            (clean,) = of(found, f"contribution/{id}", condition=None, group=group)
            assert (clean.value, clean.estimator, clean.n) == (pytest.approx(expected), line.estimator, line.n)


@pytest.mark.parametrize(
    ("name", "sign"),
    [("T6 leaves what is corrupted", -1), pytest.param("T7 captured by noise", 1, marks=pytest.mark.slow)],
)
def test_attention_that_follows_reliability(name, sign, rng):
    """T6 and T7 through the stage: rolled out, attention leaves what is noisy, or is captured by it."""
    clips = noisy_clips(rng)
    sound = clips.streams["audio"]
    flat = np.repeat(sound.values[:, :1], SAMPLES, axis=1)
    found = corruptions(study_of(gated(sign), clips.replace({"audio": sound.replace(values=flat)}), UNDER))
    for modality in MODALITIES:
        (line,) = [line for line in of(found, "drift/rfi", group=modality) if line.estimator.startswith(ATTENDED)]
        assert line.condition.corruption == NOISES[modality]
        assert line.value == pytest.approx(CASES[name].expected[f"rfi.{modality}"][0])
        even = {"audio": SAMPLES, "video": FRAMES}[modality] / (SAMPLES + FRAMES)
        (line,) = of(found, "contribution/attention_share", corruption=NOISES[modality], group=modality)
        assert line.condition.severity == 5
        assert sign * (line.value - even) > 0.01


def test_silence_is_left_alone_by_noise_and_nothing_drifts(rng):
    """A corruption that changes nothing is severity 0: every distance is that of a state to itself."""
    clips = noisy_clips(rng)
    sound = clips.streams["audio"]
    clips = clips.replace({"audio": sound.replace(values=np.zeros_like(sound.values))})

    def sees(tokens):
        return 4 * (tokens["video"].values.mean(axis=(1, 2, 3, 4)) - 0.5) + tokens["audio"].values.sum(axis=1)

    tier = dataclasses.replace(UNDER, corruptions=(NOISES["audio"],), severities=(2, 5), relevance=False)
    found = corruptions(study_of(sees, clips, tier))
    nothing = ("cmsd", "cmsd_allocation", "cmsd_localisation", "total_variation", "earth_mover_grid")
    for id in nothing:
        assert {line.value for line in of(found, f"drift/{id}")} == {0}, id
    for id in ("cosine", "top_iou"):
        (line,) = of(found, f"drift/{id}")
        assert line.value == pytest.approx(1), id


def squares(tokens):
    """Saliency is the square of what is there, and so moves with it."""
    return sum(jnp.square(tokens[m].values).sum(axis=tuple(range(1, tokens[m].values.ndim))) for m in MODALITIES)


def test_a_map_that_turns_with_its_picture_does_not_drift(rng):
    side = 28
    turn = rng.uniform(0, 2 * np.pi, ROWS)
    at = (side - 1) / 2 + 7 * np.stack([np.sin(turn), np.cos(turn)])
    down, right = np.indices((side, side))
    blob = np.exp(-((down - at[0][:, None, None]) ** 2 + (right - at[1][:, None, None]) ** 2) / 8)
    frames = np.broadcast_to(blob[:, None, ..., None], (ROWS, FRAMES, side, side, 1))
    clips = clips_of(np.zeros((ROWS, SAMPLES)), frames, np.resize([0, 1], ROWS))
    tier = dataclasses.replace(UNDER, corruptions=("video/rotation",), severities=(1, 5), relevance=False)
    study = study_of(squares, clips, tier)
    found = corruptions(study)
    # In place it would seem to have gone elsewhere.
    looking = Looking.by_gradients(study, study.part(None))
    turned = clips.replace(corrupted(clips.streams, "video/rotation", 5, seed=study.seed, index=clips.index))
    in_place = looking.moved(looking.look(turned)[0]).drift.total.mean()
    assert max(line.value for line in of(found, "drift/cmsd")) < 0.01 < 0.3 < in_place
    assert not looking.moved(looking.clean).drift.total.any()
    assert all(line.value < 0.01 for line in of(found, "drift/dropped_mass"))
    assert len(of(found, "drift/dropped_mass")) == 4


def test_a_map_that_moves_with_the_sound_does_not_drift(rng):
    """Of a beat that leaves the clip its mass is dropped; of one that stays nothing is."""
    beat, step = rng.integers(0, SAMPLES, ROWS), 4
    sound = np.zeros((ROWS, SAMPLES))
    sound[np.arange(ROWS), beat] = 0.5
    clips = clips_of(sound, np.full((ROWS, FRAMES, SIDE, SIDE, 1), 0.1), np.resize([0, 1], ROWS))
    tier = dataclasses.replace(UNDER, offsets=(1000 * step / 16,))
    found = offsets(study_of(squares, clips, tier))
    whole = 0.25 / (0.25 + 0.01 * FRAMES * SIDE * SIDE)
    for sign in (-1, 1):
        fields = {"corruption": "offset", "severity": sign * 1000 * step / 16, "fill": "zero"}
        (line,) = of(found, "drift/cmsd", **fields)
        assert line.value == pytest.approx(0, abs=1e-6)
        clean, changed = (line.value for line in of(found, "drift/dropped_mass", **fields))
        gone = (beat + sign * step < 0) | (beat + sign * step >= SAMPLES)
        assert clean == pytest.approx(whole * gone.mean(), abs=1e-6)
        assert changed == pytest.approx(0, abs=1e-6)
