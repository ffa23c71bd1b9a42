"""Event localisation: a model of segments against NumPy, hidden cells, and the terms and objectives of segments."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import ave, cmran, dmin, psp
from avjax.objectives.sequence import SegmentEvents
from avjax.objectives.terms import WithTerms
from avjax.streams import Stream
from avjax.training.step import split_model
from tests.levels import in_part, in_short
from tests.models import tiny
from tests.models.reference import dense
from tests.models.systems import batch, forward, small, without
from tests.nn.temporal.test_recurrent import run as recurrence

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

ROWS, SEGMENTS = 4, 3


def relu(x):
    return np.maximum(x, 0)


def both_ways(p, x):
    cells = p["layers"][0]
    backward = recurrence("lstm", cells[1], x[::-1])[::-1]
    return np.concatenate([recurrence("lstm", cells[0], x), backward], axis=1)


def localised(p, sound, cells, dmrn, attention):
    """Logits of segments [T, K] from sound [T, C] and cells [T, S, C], everything there."""
    picture = []
    for a, each in zip(sound, cells, strict=True):
        if not attention:
            picture.append(each.mean(0))
            continue
        guide = relu(dense(a, p["guide"]["audio"])) @ p["guide"]["audio_key"]["kernel"]
        keys = [relu(dense(v, p["guide"]["visual"])) @ p["guide"]["visual_key"]["kernel"] for v in each]
        scores = np.array([(np.tanh(key + guide) @ p["guide"]["score"]["kernel"])[0] for key in keys])
        weights = np.exp(scores - scores.max())
        picture.append(weights / weights.sum() @ each)
    h = {"audio": both_ways(p["recurrent"]["audio"], sound)}
    h["video"] = both_ways(p["recurrent"]["video"], np.array(picture))
    joined = np.concatenate([h["audio"], h["video"]], axis=1)
    if dmrn:
        update = {m: dense(np.tanh(dense(h[m], p["residual"]["up"][m])), p["residual"]["down"][m]) for m in h}
        mean = (update["audio"] + update["video"]) / 2
        joined = (np.tanh(h["audio"] + mean) + np.tanh(h["video"] + mean)) / 2
    return dense(relu(dense(relu(joined), p["bottleneck"])), p["heads"]["event"]["classify"])


@pytest.mark.parametrize(("fusion", "attention"), [("concat", True), ("dmrn", True), ("concat", False)])
def test_ave_is_its_equations(fusion, attention, rng):
    config = dataclasses.replace(ave.Config.tiny(), fusion=fusion, attention=attention)
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = tiny.randomise(params, rng, 0.3)
    given = batch(config, rng, ROWS)
    found = tiny.jit(lambda p, b: nnx.merge(graph, p, *rest)(b))(params, jax.tree.map(jnp.asarray, given))
    weights = tiny.plain(params)
    for row in range(ROWS):
        # Six tokens of sound, two of which begin in each of three segments.
        sound = given.streams["audio"].values[row].astype(np.float64).reshape(SEGMENTS, 2, -1).mean(1)
        cells = given.streams["video"].values[row].astype(np.float64).reshape(SEGMENTS, 4, -1)
        logits = localised(weights, sound, cells, fusion == "dmrn", attention)
        np.testing.assert_allclose(found.aux["segments"]["event"][row], logits, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(found.logits["event"][row], logits.mean(0), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["ave", "cmran", "dmin", "psp"])
def test_a_hidden_cell_is_not_seen(name, rng):
    """Whatever it shows, and with all of its cells hidden a segment has no picture."""
    config, _ = small(name)
    made = batch(config, rng, ROWS)
    keep = rng.random((ROWS, SEGMENTS * 4)) < 0.6
    keep[0, :4] = False
    other = made.streams["video"].values.reshape(ROWS, SEGMENTS * 4, -1).copy()
    other[~keep] += 3
    stream = made.streams["video"]
    changed = made.replace(streams={**made.streams, "video": stream.replace(values=other.reshape(stream.values.shape))})
    keep = {"video": jnp.asarray(keep)}
    one, same = forward(name)(made, keep), forward(name)(changed, keep)
    np.testing.assert_array_equal(one.logits["event"], same.logits["event"])
    assert not one.tokens["video"].valid[0, 0]
    whole = forward(name)(made)
    assert np.abs(whole.logits["event"] - one.logits["event"]).max() > 1e-5


@pytest.mark.parametrize(("name", "modality"), in_part(("ave", "cmran", "dmin", "psp"), ("audio", "video"), one_of=2))
def test_a_model_of_one_modality_is_one_whose_other_is_missing(name, modality, rng):
    config, model = small(name)
    (encoder,) = [encoder for encoder in config.modalities if encoder.modality == modality]
    alone = dataclasses.replace(config, modalities=(encoder,))
    _, params, *_ = split_model(model)
    graph, own, more, constants = split_model(tiny.jit(lambda: alone.build(nnx.Rngs(0)))())
    assert jax.tree.structure(own) == jax.tree.structure(params)
    whole = batch(config, rng, ROWS)
    (other,) = whole.streams.keys() - {modality}
    one = whole.replace(streams={modality: whole.streams[modality]})

    @tiny.jit
    def run(given):
        return nnx.merge(graph, params, more, constants)(given)

    found, expected = run(jax.tree.map(jnp.asarray, one)), forward(name)(without(whole, slice(None), other))
    np.testing.assert_allclose(found.logits["event"], expected.logits["event"], rtol=1e-5, atol=1e-6)
    segments = "eventness" if "eventness" in found.aux["segments"] else "event"
    np.testing.assert_allclose(
        found.aux["segments"][segments], expected.aux["segments"][segments], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", in_short(("ave", "cmran", "dmin", "psp", "klassify"), ("ave", "klassify")))
def test_segments_can_be_learned_from(name, rng):
    """Supervised and weakly, with gradients that are numbers where a modality or everything is missing."""
    config, model = small(name)
    head = next(iter(config.classes))
    made = batch(config, rng, ROWS)
    made = without(without(without(made, [1], "audio"), [2], "video"), [3], "audio")
    made = without(made, [3], "video")
    graph, params, buffers, constants = split_model(model)
    output = forward(name)(made)
    steps = output.aux["segments"]["valid"].shape[1]
    classes = config.classes[head]
    target = {"eventness": (rng.random((ROWS, steps, 1)) < 0.5).astype(np.float32), head: made.target[head]}
    base = SegmentEvents(head=head)
    if name == "ave":
        target = {head: np.eye(classes, dtype=np.float32)[rng.integers(0, classes, (ROWS, steps))]}
        base = dataclasses.replace(base, eventness="")
    objectives = [WithTerms(base, (("pair_similarity", 0.5),) if name == "psp" else ())]
    if name != "ave":
        objectives.append(dataclasses.replace(base, supervision="clip"))
    made = jax.tree.map(jnp.asarray, made.replace(target=target))
    for objective in objectives:

        def loss(params, made, objective=objective):
            model = nnx.merge(graph, params, buffers, constants, copy=True)
            return objective(model(made), made)[0]

        value, gradient = tiny.jit(jax.value_and_grad(loss))(params, made)
        assert np.isfinite(value)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert sum(np.abs(leaf).max() > 0 for leaf in leaves) > len(leaves) / 2


def test_scores_of_cells(rng):
    """DMIN: products with the sound, and each cell's own time, in NumPy."""
    config = dmin.Config.tiny()
    graph, params, *rest = split_model(dmin.CellScores(config, rngs=nnx.Rngs(0)))
    params = tiny.randomise(params, rng, 0.3)
    p = tiny.plain(params)
    cells, sound = rng.normal(size=(SEGMENTS, 4, config.visual)), rng.normal(size=(SEGMENTS, config.audio))
    streams = [
        Stream(jnp.asarray(x[None], jnp.float32), jnp.ones((1, SEGMENTS), bool), jnp.zeros(1), 1.0)
        for x in (cells, sound)
    ]
    found = tiny.jit(lambda p, *given: nnx.merge(graph, p, *rest)(*given))(params, *streams)
    for cell in range(4):
        heard = dense(sound, p["audio"])
        path = np.concatenate([cells[:, cell] + heard, heard], axis=1)
        for layer in p["recurrent"]["layers"].values():
            path = both_ways({"layers": [layer]}, path)
        for t in range(SEGMENTS):
            factors = (cells[t, cell] @ p["products"]["project"][0]["kernel"]) * (
                sound[t] @ p["products"]["project"][1]["kernel"]
            )
            z = factors.reshape(config.bilinear, config.factors).sum(1)
            z = np.sign(z) * np.sqrt(np.abs(z))
            want = np.tanh(z / np.linalg.norm(z) + path[t]) @ p["score"]["kernel"][:, 0]
            np.testing.assert_allclose(found[0, t, cell], want, rtol=1e-4, atol=2e-5)


def test_dmin_is_cmran_but_for_three_things():
    """Its other parts have the names and shapes of CMRAN's."""
    shapes = {}
    for module in (cmran, dmin):
        config = module.Config.paper()
        state = nnx.state(nnx.eval_shape(lambda config=config: config.build(nnx.Rngs(0))), nnx.Param)
        shapes[module] = {path: leaf.get_value().shape for path, leaf in nnx.to_flat_state(state)}
    more = set(shapes[dmin]) - set(shapes[cmran])
    assert {path[:2] for path in more} == {("guide", "spatial"), ("classify_video", "heads")}
    gone = set(shapes[cmran]) - set(shapes[dmin])
    assert {path[:2] for path in gone} == {("guide", "spatial_visual"), ("guide", "spatial_audio"), ("guide", "score")}
    assert all(shapes[dmin][path] == shape for path, shape in shapes[cmran].items() if path not in gone)


def test_a_model_says_what_it_is_of():
    audio, _ = ave.Config.tiny().modalities
    for other, named in (((dataclasses.replace(audio, modality="touch"),), "touch"), ((), "nothing")):
        config = dataclasses.replace(ave.Config.tiny(), modalities=other)
        with pytest.raises(ValueError, match=f"event localisation is of audio and video, not of {named}"):
            config.build(nnx.Rngs(0))
    with pytest.raises(ValueError, match="one event, so there is one head, not event, speaker"):
        dataclasses.replace(psp.Config.tiny(), classes={"event": 3, "speaker": 2}).build(nnx.Rngs(0))
