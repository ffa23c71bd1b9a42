"""A probe gives what evaluation gives, however its rows are cut, and hides what it is told to hide."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from avjax.diagnostics.players import raw_players, token_players
from avjax.diagnostics.probe import FunctionProbe, ModelProbe, reader_of
from avjax.objectives.regression import Regression
from avjax.run import RunError
from avjax.training.trained import Trained

pytestmark = pytest.mark.slow  # all ask a model that was trained


@pytest.fixture(scope="module")
def reader(run):
    return reader_of(Trained.load(run.path), "label", "test")


@pytest.fixture(scope="module")
def clips(reader):
    return reader.read(reader.choose(None))


def test_logits_are_those_of_evaluation(probe, reader, clips, run):
    said = run.predictions("test")
    if reader.data.test_clips == 1:
        np.testing.assert_allclose(
            scipy.special.softmax(probe.logits(clips), axis=1), said["predicted:label"], rtol=1e-4, atol=1e-6
        )
    np.testing.assert_array_equal(clips.label, said["target:label"].argmax(1))
    np.testing.assert_array_equal(clips.index, said["index"])


def test_rows_do_not_depend_on_their_neighbours(probe, clips):
    whole = probe.logits(clips)
    np.testing.assert_allclose(probe.logits(clips.take([7, 2, 7])), whole[[7, 2, 7]], rtol=1e-5, atol=1e-6)


def test_all_tokens_of_a_modality_hidden_is_the_modality_missing(probe, clips):
    kept = {"audio": np.zeros((len(clips), np.prod(probe.grids["audio"])), bool)}
    np.testing.assert_allclose(probe.logits(clips, kept), probe.logits(clips.without("audio")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tokens", "raw"])
def test_coalitions(probe, clips, rng, kind):
    """Each as its own call; a function without the model's insides gives the same of raw players."""
    clips = clips.take(range(5))
    players = token_players(probe.grids) if kind == "tokens" else raw_players(clips.streams)
    kept = rng.random((5, len(players))) < 0.5
    kept[0], kept[1] = True, False
    baseline = {m: np.full((), 0.25, np.float32) for m in probe.modalities} if kind == "raw" else None
    found = probe.coalitions(clips, kept, players, baseline)
    assert found.shape == (5, 5, len(probe.classes))
    np.testing.assert_allclose(found[0], probe.logits(clips), rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    for number, row in enumerate(kept):
        if kind == "tokens":
            own = probe.logits(clips, {m: np.tile(row[where], (5, 1)) for m, where in players.where.items()})
            np.testing.assert_allclose(found[number], own, rtol=1e-5, atol=1e-6)
    own = probe.varied(clips, kept, players, baseline)
    np.testing.assert_allclose(own, found[np.arange(5), np.arange(5)], rtol=1e-4, atol=1e-5)
    if kind == "raw":
        plain = FunctionProbe(probe.modalities, probe.head, probe.classes, 3, probe.logits)
        np.testing.assert_allclose(plain.coalitions(clips, kept, players, baseline), found, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(plain.varied(clips, kept, players, baseline), own, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="raw players"):
            plain.coalitions(clips, kept, token_players(probe.grids))


def test_other_parameters_share_what_is_compiled(probe, clips):
    clips, players = clips.take(range(3)), raw_players(clips.streams)
    kept, baseline = np.ones((3, len(players)), bool), {m: np.zeros((), np.float32) for m in probe.modalities}
    parameters = jax.tree.map(lambda x: 0 * x, probe.state.params)
    other = probe.with_state(dataclasses.replace(probe.state, params=parameters))
    # Without weights all classes are equal, whatever is asked; the model itself is as it was.
    for found in (other.logits(clips), other.varied(clips, kept, players, baseline)):
        np.testing.assert_array_equal(found, np.zeros_like(found))
    assert np.ptp(probe.logits(clips), axis=1).min() > 1e-4
    assert other._plain is probe._plain
    assert other._of_players is probe._of_players


def test_forward_is_differentiable_in_raw_values(probe, clips):
    clips = clips.take(range(probe.batch))

    def loss(values):
        streams = {m: clips.streams[m].replace(values=values[m]) for m in values}
        return probe.forward(streams)[:, 0].sum()

    gradient = jax.jit(jax.grad(loss))({m: jnp.asarray(s.values) for m, s in clips.streams.items()})
    for modality, found in gradient.items():
        found, valid = np.asarray(found), clips.streams[modality].valid
        assert np.isfinite(found).all()
        assert np.abs(found[valid]).max() > 0
        assert not found[~valid].any()


def test_saliency_is_of_features_and_says_the_logits(probe, clips):
    clips = clips.take([0, 3, 4])
    found, logits = probe.saliency(clips, np.array([0, 1, 1]))
    np.testing.assert_allclose(logits, probe.logits(clips), rtol=1e-4, atol=1e-5)
    assert found["audio"].ndim == 3
    assert found["video"].ndim == 4
    for modality, gone in (("audio", 1), ("video", 2)):
        # Clip 3 has no sound, clip 4 no pictures.
        assert (found[modality] >= 0).all()
        np.testing.assert_array_equal(found[modality].reshape(3, -1).any(axis=1), np.arange(3) != gone)


@pytest.mark.parametrize(("batch", "size"), [(8, 8), (16, 16), (32, 8)])
def test_saliency_of_every_clip_however_batches_are_cut(probe, clips, batch, size):
    """Ten clips, which eight devices take in a batch and a part of one, in one batch, or in small ones."""
    other = dataclasses.replace(probe, batch=batch)
    assert other.backward_batch(len(clips)) == size
    target = np.arange(len(clips)) % len(probe.classes)
    found, logits = other.saliency(clips, target)
    np.testing.assert_allclose(logits, probe.logits(clips), rtol=1e-4, atol=1e-5)
    for row in (0, 6, len(clips) - 1):
        alone, _ = probe.saliency(clips.take([row]), target[[row]])
        for modality, mass in found.items():
            assert len(mass) == len(clips)
            np.testing.assert_allclose(mass[row], alone[modality][0], rtol=1e-3, atol=1e-6)


def test_attention_is_that_of_every_clip(probe, clips):
    sites = probe.attention(clips, ("mass",))
    for site in sites.values():
        mass = site["mass"]
        assert isinstance(mass, np.ndarray)
        assert mass.shape[1] == len(clips)
    some = probe.attention(clips.take([6]), ("mass",))
    for name, site in sites.items():
        np.testing.assert_allclose(some[name]["mass"][:, 0], site["mass"][:, 6], rtol=1e-5, atol=1e-6)


def test_late_sound_is_the_clips_own(reader, clips):
    """Moved by whole samples; where the clip has no sound there is none, and nothing is repeated."""
    rate = reader.data.audio.rate
    index = reader.choose(None)
    late, early = (reader.read(index, audio_late=samples / rate).streams["audio"] for samples in (40, -40))
    plain = clips.streams["audio"]
    np.testing.assert_array_equal(late.values[:, 40:], plain.values[:, :-40])
    both = early.valid[:, :-40] & plain.valid[:, 40:]
    np.testing.assert_array_equal(early.values[:, :-40][both], plain.values[:, 40:][both])
    with_sound = plain.valid.any(1)
    assert with_sound.any()
    assert not late.valid[~with_sound].any()


def test_clips_are_chosen_evenly(reader):
    chosen = reader.choose(4, seed=1)
    label = reader.read(chosen).label
    assert len(set(chosen)) == 4
    assert np.bincount(label).max() - np.bincount(label).min() <= 1
    np.testing.assert_array_equal(chosen, reader.choose(4, seed=1))
    assert len(reader.choose(None)) == 10 == len(reader.choose(99))


def test_what_is_no_head_of_classes_is_refused(run):
    trained = Trained.load(run.path)
    with pytest.raises(RunError, match="no head 'face'"):
        ModelProbe.of(trained, "face")
    objective = Regression()
    other = dataclasses.replace(trained, experiment=dataclasses.replace(trained.experiment, objective=objective))
    with pytest.raises(RunError, match="predicts values"):
        ModelProbe.of(other)
