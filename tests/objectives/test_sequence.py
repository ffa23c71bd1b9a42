"""CTC against all paths, the decoder's loss and segment events against loops; what is padding; degenerate rows."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.decoding import collapse
from avjax.objectives.sequence import SegmentEvents, Transcription, attention_decoder, ctc
from tests.models import tiny
from tests.objectives.made import finite, output_and_batch

TOKENS = 3


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def over_all_paths(logits, target):
    """-log of the sum over the paths that collapse to the target, one by one."""
    log = log_softmax(logits)
    total = 0.0
    for path in itertools.product(range(log.shape[1]), repeat=len(log)):
        if collapse(path) == tuple(target):
            total += np.exp(sum(log[t, token] for t, token in enumerate(path)))
    return -np.log(total)


TARGETS = [(1, 2), (1, 1), (2,), (), (2, 1, 2), (1, 1, 1)]
STEPS = 5


def padded(targets):
    return np.array([[*target, *[0] * (3 - len(target))] for target in targets])


def test_ctc_is_the_sum_over_all_paths(rng):
    logits = 2 * rng.normal(size=(6, STEPS, TOKENS))
    # Steps that do not count, also in the midst.
    valid = np.ones((6, STEPS), bool)
    valid[1, 0] = valid[2, 2] = valid[2, 4] = False
    weight = np.array([1, 2, 1, 0.5, 1, 1])
    rows = [over_all_paths(logits[i][valid[i]], TARGETS[i]) for i in range(6)]
    logits[~valid] = np.nan

    def loss(x):
        return ctc(x, jnp.asarray(padded(TARGETS)), jnp.asarray(valid), jnp.asarray(weight, "float32")).value

    value, gradient = tiny.jit(jax.value_and_grad(loss))(jnp.asarray(logits, "float32"))
    assert float(value) == pytest.approx(np.average(rows, weights=weight), rel=1e-5)
    assert finite(gradient)
    assert (np.asarray(gradient)[~valid] == 0).all()
    # The gradient of a log probability by logits sums to 0 over tokens.
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-5)


def test_ctc_leaves_out_what_no_path_can_say(rng):
    logits = rng.normal(size=(4, STEPS, TOKENS)).astype(np.float32)
    targets = padded([(1, 2), (1, 1), (1, 2, 1), (1, 1, 1)])
    valid = np.arange(STEPS) < np.array([[2], [2], [2], [0]])
    found = ctc(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(valid), jnp.ones(4))
    assert float(found.weight) == 1
    assert float(found.value) == pytest.approx(over_all_paths(logits[0, :2], (1, 2)), rel=1e-5)
    nothing = ctc(jnp.full((4, STEPS, TOKENS), jnp.nan), jnp.asarray(targets), jnp.asarray(valid), jnp.zeros(4))
    assert float(nothing.value) == 0


@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_decoder_pays_for_every_token_and_the_end(smooth, rng):
    logits = rng.normal(size=(6, 4, TOKENS))
    weight = np.array([1, 2, 1, 0.5, 0, 1])
    rows = []
    for i, target in enumerate(TARGETS):
        log, row = log_softmax(logits[i]), 0.0
        for at, token in enumerate((*target, 0)):
            row -= (1 - smooth) * log[at, token] + smooth * log[at].mean()
        rows.append(row)
        logits[i, len(target) + 1 :] = np.nan
    logits[4] = np.nan
    value, gradient = jax.value_and_grad(
        lambda x: attention_decoder(x, jnp.asarray(padded(TARGETS)), jnp.asarray(weight, "float32"), smooth).value
    )(jnp.asarray(logits, "float32"))
    assert float(value) == pytest.approx(np.average(rows, weights=weight), rel=1e-5)
    assert finite(gradient)


def test_hybrid_weighs_both(rng):
    weight, present = np.ones(6, np.float32), {"video": np.array([1, 1, 1, 0, 1, 1], bool)}
    logits = {name: rng.normal(size=(6, STEPS, TOKENS)).astype(np.float32) for name in ("text", "text/video")}
    decoder = {"text": jnp.asarray(rng.normal(size=(6, 4, TOKENS)), jnp.float32)}
    # Transcripts as floats are as good.
    target = {"text": padded(TARGETS).astype(np.float32)}
    output, batch = output_and_batch(logits, target, weight, present, decoder=decoder)
    loss, parts = Transcription(ctc=0.3, per_modality=0.5, label_smoothing=0.1)(output, batch)
    assert parts.keys() == {"loss/ctc/text", "loss/ctc/text/video", "loss/attention/text"}
    assert float(parts["loss/ctc/text/video"].weight) == 5
    values = {name: float(part.value) for name, part in parts.items()}
    rows = [over_all_paths(logits["text"][i], TARGETS[i]) for i in range(6)]
    assert values["loss/ctc/text"] == pytest.approx(np.mean(rows), rel=1e-5)
    expected = 0.3 * values["loss/ctc/text"] + 0.7 * values["loss/attention/text"] + 0.5 * values["loss/ctc/text/video"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    alone, _ = Transcription()(output, batch)
    assert float(alone) == pytest.approx(values["loss/ctc/text"], rel=1e-6)
    with pytest.raises(ValueError, match=r"no decoder for 'text': set --objective.ctc 1"):
        Transcription(ctc=0.5)(output_and_batch(logits, target, weight, present)[0], batch)
    said = Transcription().predictions(output)
    assert said.keys() == {"text", "text/video", "text/valid"}
    np.testing.assert_allclose(said["text"].sum(-1), 1, rtol=1e-5)
    beside = dataclasses.replace(output, logits={}, aux={"ctc": output.logits})
    np.testing.assert_array_equal(Transcription().predictions(beside)["text"], said["text"])


CLASSES = 4


def events(rng, segments: bool, **changes):
    shape = (5, 6, CLASSES) if segments else (5, CLASSES)
    logits = {name: rng.normal(size=shape) for name in ("event", "event/audio", "event/video")}
    logits["eventness"] = rng.normal(size=(5, 6, 1))
    target = {
        "event": np.eye(CLASSES)[rng.integers(0, CLASSES, 5)],
        "eventness": (rng.random((5, 6, 1)) < 0.5).astype(float),
    }
    valid = rng.random((5, 6)) < 0.7
    valid[0] = True
    valid[3] = False
    present = {"audio": np.array([1, 1, 1, 1, 0], bool), "video": np.array([1, 0, 1, 1, 1], bool)}
    weight = np.array([1, 2, 0, 1, 1], np.float32)
    logits, target = jax.tree.map(lambda x: x.astype(np.float32), (logits, target))
    aux = {"valid": {"event": jnp.asarray(valid), "eventness": jnp.asarray(valid)}}
    return output_and_batch(logits, target, weight, present, **aux), valid, present, weight


def cross_entropy(logits, target):
    return -(np.asarray(target) * log_softmax(logits)).sum(-1)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_supervised_events(rng):
    (output, batch), valid, present, weight = events(rng, segments=False)
    loss, parts = SegmentEvents(per_modality=0.1)(output, batch)
    p, y = sigmoid(output.logits["eventness"])[..., 0], np.asarray(batch.target["eventness"])[..., 0]
    each = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    rows = [each[i][valid[i]].mean() if valid[i].any() else 0 for i in range(5)]
    eventness = np.average(rows, weights=weight * valid.any(1))
    assert float(parts["loss/eventness"].value) == pytest.approx(eventness, rel=1e-5)
    classes = {}
    for name in ("event", "event/audio", "event/video"):
        there = present.get(name.partition("/")[2], np.ones(5, bool))
        rows = cross_entropy(output.logits[name], batch.target["event"])
        classes[name] = np.average(rows, weights=weight * there)
        assert float(parts[f"loss/{name}"].value) == pytest.approx(classes[name], rel=1e-5)
    own = (classes["event/audio"] + classes["event/video"]) / 2
    assert float(loss) == pytest.approx(eventness + 0.9 * classes["event"] + 0.1 * own, rel=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("segments", [False, True])
def test_weak_events(pooling, segments, rng):
    (output, batch), valid, _, weight = events(rng, segments)
    # The eventness learns from the class alone: it needs no target.
    batch = batch.replace(target={"event": batch.target["event"]})
    loss, parts = SegmentEvents(supervision="clip", pooling=pooling)(output, batch)
    assert "loss/eventness" not in parts
    gate, raw = sigmoid(output.logits["eventness"]), np.asarray(output.logits["event"], np.float64)
    rows = []
    for i in range(5):
        fused = gate[i][valid[i]] * (raw[i][valid[i]] if segments else raw[i][None])
        pooled = np.zeros(CLASSES) if not valid[i].any() else getattr(fused, pooling)(axis=0)
        rows.append(cross_entropy(pooled, batch.target["event"][i]))
    assert float(loss) == pytest.approx(np.average(rows, weights=weight), rel=1e-5)


@pytest.mark.parametrize("supervision", ["segments", "clip"])
def test_invalid_segments_are_not_read(supervision, rng):
    (output, batch), valid, _, weight = events(rng, segments=True)
    objective = SegmentEvents(supervision=supervision, per_modality=0.3)
    counted = (valid & (weight > 0)[:, None])[..., None]

    @tiny.jit
    @jax.value_and_grad
    def loss(logits):
        return objective(output.__class__(logits, output.tokens, output.aux), batch)[0]

    clean = loss(output.logits)
    spoilt = loss(jax.tree.map(lambda x: jnp.where(counted, x, jnp.nan), output.logits))
    jax.tree.map(np.testing.assert_array_equal, clean, spoilt)
    assert finite(clean)


def test_events_without_weight_and_their_predictions(rng):
    (output, batch), valid, *_ = events(rng, segments=True)
    value, parts = SegmentEvents()(output, batch.replace(weight=jnp.zeros(5)))
    assert float(value) == 0
    assert finite(parts)
    found = SegmentEvents().predictions(output)
    assert found.keys() == {*output.logits, "event/valid", "eventness/valid"}
    np.testing.assert_allclose(found["event"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found["eventness"], sigmoid(output.logits["eventness"]), rtol=1e-5)
    np.testing.assert_array_equal(found["event/valid"], valid)


def test_segments_in_aux_are_as_good(rng):
    """A model whose logits are of clips reports its segments beside them."""
    (output, batch), valid, _, _ = events(rng, False)
    segments = {"eventness": output.logits["eventness"][..., 0], "valid": jnp.asarray(valid)}
    logits = {name: value for name, value in output.logits.items() if name != "eventness"}
    for supervision in ("segments", "clip"):
        objective = SegmentEvents(supervision=supervision)
        moved = dataclasses.replace(output, logits=logits, aux={"segments": segments})
        assert float(objective(moved, batch)[0]) == pytest.approx(float(objective(output, batch)[0]), rel=1e-6)


def test_a_clip_is_labelled_by_its_segments(rng):
    """With clips' labels alone: what any segment has, and the background, the last class, where none has an event."""
    (output, batch), *_ = events(rng, False)
    logits = output.logits["event"]
    target = np.zeros((5, 6, CLASSES), np.float32)
    target[..., -1] = 1
    target[1, 2], target[2, 1:3], target[3, 0] = np.eye(CLASSES)[[0, 1, 0]]
    target[3, 4] = np.eye(CLASSES)[1]
    clips = np.zeros((5, CLASSES))
    clips[[0, 4], -1] = clips[1, 0] = clips[2, 1] = 1
    clips[3, :2] = 0.5
    output = dataclasses.replace(output, logits={"event": logits})
    objective = SegmentEvents(eventness="", supervision="clip")
    found, _ = objective(output, batch.replace(target={"event": target}))
    assert float(found) == pytest.approx(np.average(cross_entropy(np.asarray(logits), clips), weights=batch.weight))
    assert float(objective(output, batch.replace(target={"event": clips}))[0]) == pytest.approx(float(found))


def test_segments_with_classes_of_their_own(rng):
    (output, batch), valid, _, weight = events(rng, True)
    target = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, (5, 6))]
    segments = {"event": output.logits["event"], "valid": jnp.asarray(valid)}
    output = dataclasses.replace(output, logits={"event": output.logits["event"][:, 0]}, aux={"segments": segments})
    batch = batch.replace(target={"event": target})
    loss, parts = SegmentEvents(eventness="")(output, batch)
    each = cross_entropy(np.asarray(segments["event"]), target)
    rows = [each[i][valid[i]].mean() if valid[i].any() else 0.0 for i in range(5)]
    assert parts.keys() == {"loss/event"}
    assert float(loss) == pytest.approx(np.average(rows, weights=weight * valid.any(1)), rel=1e-5)


def test_frames_in_aux_are_as_good(rng):
    logits = {"text": rng.normal(size=(6, STEPS, TOKENS)).astype(np.float32)}
    output, batch = output_and_batch(logits, {"text": padded(TARGETS)}, np.ones(6, np.float32), {})
    clips = dataclasses.replace(output, logits={"text": output.logits["text"].max(1)}, aux={"ctc": output.logits})
    assert float(Transcription()(clips, batch)[0]) == float(Transcription()(output, batch)[0])
