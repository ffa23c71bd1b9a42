"""Blocks of event localisation in float64, segment by segment; what is not valid is taken out."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion.events import (
    AudioGuidedAttention,
    AudioVisualInteraction,
    CrossModalRelationAttention,
    DualResidual,
    PositiveSamplePropagation,
    SpatialChannelAttention,
)
from avjax.nn.scoring import dense_shift
from avjax.nn.transformer import Size
from tests.models import reference
from tests.nn.fusion.streams import check, check_bfloat16, check_parameters, relu, rows, run, sites, stream

ROWS, SEGMENTS, CELLS = 5, 5, 6
NAMES = ("audio", "video")


def cells_and_sound(rng):
    """Row 1 without sound, row 2 without picture."""
    return stream(rng, ROWS, SEGMENTS, 3, 3, missing=(2,)), stream(rng, ROWS, SEGMENTS, 4, missing=(1,))


def pair(rng, width=8):
    """Row 0 with every segment, row 1 without sound, row 2 without picture, row 3 with nothing, row 4 with gaps."""
    missing = {"audio": (1, 3), "video": (2, 3)}
    return {m: stream(rng, ROWS, SEGMENTS, width, missing=missing[m], whole=(0,)) for m in NAMES}


def softmax(z):
    e = np.exp(np.array(z) - np.max(z))
    return e / e.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def each_segment(cells, audio):
    """(row, place, cells [S, C], sound or None) of every valid segment."""
    for row, place in np.argwhere(np.asarray(cells.valid)):
        heard = np.asarray(audio.values, np.float64)[row, place] if audio.valid[row, place] else None
        yield row, place, np.asarray(cells.values, np.float64)[row, place], heard


def test_audio_guided_attention(rng):
    cells, audio = cells_and_sound(rng)
    p, result = run(AudioGuidedAttention(3, 4, hidden=7, attention=5, rngs=nnx.Rngs(0)), rng, cells, audio)
    values = np.asarray(result.values)
    for row, place, seen, heard in each_segment(cells, audio):
        scores = []
        for v in seen:
            inner = relu(reference.dense(v, p["visual"])) @ p["visual_key"]["kernel"]
            if heard is not None:
                inner = inner + relu(reference.dense(heard, p["audio"])) @ p["audio_key"]["kernel"]
            scores.append((np.tanh(inner) @ p["score"]["kernel"])[0])
        want = sum(a * v for a, v in zip(softmax(scores), seen, strict=True))
        np.testing.assert_allclose(values[row, place], want, rtol=1e-4, atol=1e-5)
    assert (values[~np.asarray(cells.valid)] == 0).all()


def test_spatial_channel_attention(rng):
    cells, audio = cells_and_sound(rng)
    p, result = run(SpatialChannelAttention(3, 4, hidden=7, bottleneck=5, rngs=nnx.Rngs(0)), rng, cells, audio)
    values = np.asarray(result.values)

    def product(v, heard, kind):
        seen = relu(reference.dense(v, p[f"{kind}_visual"]))
        return seen if heard is None else seen * relu(reference.dense(heard, p[f"{kind}_audio"]))

    for row, place, seen, heard in each_segment(cells, audio):
        mean = np.mean([product(v, heard, "channel") for v in seen], 0)
        c = sigmoid(reference.dense(relu(reference.dense(mean, p["bottleneck"])), p["channel"]))
        seen = [v * (1 + c) for v in seen]
        scores = [np.tanh(reference.dense(product(v, heard, "spatial"), p["score"]))[0] for v in seen]
        want = sum(a * v for a, v in zip(softmax(scores), seen, strict=True))
        np.testing.assert_allclose(values[row, place], want, rtol=1e-4, atol=1e-5)
    assert (values[~np.asarray(cells.valid)] == 0).all()


def post_norm(x, attended, p):
    x = reference.layer_norm(x + attended, p["norm_attention"])
    hidden = relu(reference.dense(x, p["feed_forward"]["up"]))
    return reference.layer_norm(x + reference.dense(hidden, p["feed_forward"]["down"]), p["norm_feed_forward"])


@pytest.mark.parametrize("scores", [None, dense_shift])
def test_cross_modal_relation_attention(scores, rng):
    given = pair(rng)
    module = CrossModalRelationAttention(
        Size(8, 1, 2, 2), query="video", other="audio", scores=scores, rngs=nnx.Rngs(0)
    )
    p, result = run(module, rng, given["video"], given["audio"])
    block = p["block"]
    for row in range(ROWS):
        x = rows(given, row)
        if "video" not in x:
            continue
        own, other = x["video"], x.get("audio", np.zeros((0, 8)))
        memory = np.concatenate([other, own])
        if scores is None:
            attended = reference.attention(own, memory, block, 2)
        else:
            query, key, value = (
                reference.dense(at, block[name]).reshape(len(at), 2, 4)
                for at, name in ((own, "query"), (memory, "key"), (memory, "value"))
            )
            attended = np.zeros((len(own), 2, 4))
            for n in range(len(own)):
                for h in range(2):
                    q, found = query[n, h] / 2, []
                    for m in range(len(memory)):
                        plain, k = q @ key[m, h], key[m, h]
                        crossed = (0.5 * plain + 0.5 / 3 * (q.sum() * k.sum() - plain)) / 4
                        found.append(crossed if m < len(other) else plain)
                    attended[n, h] = softmax(found) @ value[:, h]
            attended = reference.dense(attended.reshape(len(own), 8), block["out"])
        check(result, row, post_norm(own, attended, block))
    assert (np.asarray(result.values)[~np.asarray(result.valid)] == 0).all()


def test_audio_visual_interaction(rng):
    given = pair(rng)
    p, result = run(AudioVisualInteraction(8, 2, NAMES, rngs=nnx.Rngs(0)), rng, given)
    for row in range(ROWS):
        x = rows(given, row)
        g = []
        for place in range(SEGMENTS):
            there = [np.asarray(s.values, np.float64)[row, place] for s in given.values() if s.valid[row, place]]
            if there:
                g.append(np.prod(there, axis=0))
        assert int(result.valid[row].sum()) == len(g)
        if g:
            added = reference.attention(np.array(g), np.concatenate([x[m] for m in NAMES if m in x]), p["attention"], 2)
            check(result, row, reference.layer_norm(np.array(g) + added, p["norm"]))


def test_positive_sample_propagation(rng):
    given = pair(rng)
    threshold = 0.2
    p, (fused, _) = run(PositiveSamplePropagation(8, threshold=threshold, rngs=nnx.Rngs(0)), rng, given)
    branches, dropped = p["branches"], 0
    for row in range(ROWS):
        x = rows(given, row)
        branch = {
            name: relu(reference.dense(x.get(m, np.zeros((0, 8))), branches[name]))
            for name, m in (("a1", "audio"), ("a2", "audio"), ("v1", "video"), ("v2", "video"))
        }
        beta = relu(branch["v2"] @ branch["a1"].T / np.sqrt(8))
        for m, scores, values in (("video", beta, branch["a2"]), ("audio", beta.T, branch["v1"])):
            wanted = []
            for t in range(len(x.get(m, ()))):
                positive = np.zeros(8)
                if scores[t].sum() > 0:
                    shares = scores[t] / scores[t].sum()
                    kept = [share if share > threshold else 0.0 for share in shares]
                    dropped += sum(share <= threshold for share in shares)
                    for share, value in zip(kept, values, strict=True):
                        positive = positive + (share / sum(kept) * value if sum(kept) else 0)
                out = relu(reference.dense(x[m][t] + positive, p["out"][m]))
                wanted.append(reference.layer_norm(out, p["norm"][m]))
            if wanted:
                check(fused[m], row, np.array(wanted))
    assert dropped
    assert all((np.asarray(s.values)[~np.asarray(s.valid)] == 0).all() for s in fused.values())


def test_dual_residual(rng):
    given = pair(rng)
    p, (fused, _) = run(DualResidual(8, NAMES, hidden=5, rngs=nnx.Rngs(0)), rng, given)
    for row in range(ROWS):
        for place in range(SEGMENTS):
            h = {m: np.asarray(s.values, np.float64)[row, place] for m, s in given.items() if s.valid[row, place]}
            updates = [reference.dense(np.tanh(reference.dense(x, p["up"][m])), p["down"][m]) for m, x in h.items()]
            for m in h:
                want = np.tanh(h[m] + np.mean(updates, 0))
                np.testing.assert_allclose(fused[m].values[row, place], want, rtol=1e-4, atol=1e-5)


def test_what_attention_reports(rng):
    given = pair(rng)
    module = CrossModalRelationAttention(Size(8, 1, 2), query="video", other="audio", rngs=nnx.Rngs(0))
    assert sites(module, given["video"], given["audio"]) == {"video": ("audio", "video")}
    assert sites(AudioVisualInteraction(8, 2, NAMES, rngs=nnx.Rngs(0)), given) == {"interaction": NAMES}


@pytest.mark.slow
def test_narrow_numbers_and_axes(rng):
    given, seen = pair(rng), cells_and_sound(rng)
    for made, arguments in (
        (AudioGuidedAttention(3, 4, rngs=nnx.Rngs(0)), seen),
        (SpatialChannelAttention(3, 4, rngs=nnx.Rngs(0)), seen),
        (
            CrossModalRelationAttention(
                Size(8, 1, 2), query="video", other="audio", scores=dense_shift, rngs=nnx.Rngs(0)
            ),
            tuple(given.values()),
        ),
        (AudioVisualInteraction(8, 2, NAMES, rngs=nnx.Rngs(0)), (given,)),
        (PositiveSamplePropagation(8, rngs=nnx.Rngs(0)), (given,)),
        (DualResidual(8, NAMES, rngs=nnx.Rngs(0)), (given,)),
    ):
        check_parameters(made)
        check_bfloat16(made, *arguments)
