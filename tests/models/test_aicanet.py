"""Parts of maps and pairs of AICANet."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models.aicanet import FACES, Config, thirds
from avjax.nn.encoders import Precomputed
from avjax.objectives.terms import WithTerms
from avjax.training.optimizer import AdamW, Alternating
from tests.models import tiny
from tests.models.systems import batch, forward

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_thirds_of_a_map_are_those_of_adaptive_pooling():
    """Of seven cells 0 to 2, 2 to 4 and 4 to 6; of two the first, both, the second; of one always it."""
    parts = np.asarray(thirds(7, 2)).reshape(3, 3, 7, 2)
    rows = [np.flatnonzero(parts[i, 0].any(axis=1)).tolist() for i in range(3)]
    assert rows == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    columns = [np.flatnonzero(parts[0, j].any(axis=0)).tolist() for j in range(3)]
    assert columns == [[0], [0, 1], [1]]
    assert np.asarray(thirds(1, 1)).all()
    np.testing.assert_array_equal(np.asarray(thirds(3, 3)), np.eye(9, dtype=bool))


def test_one_face_in_both_places_makes_the_same_pair_twice(rng):
    made = batch(Config.tiny(), rng, 4)
    made.streams[FACES[1]] = made.streams[FACES[0]]
    pairs = forward("aicanet")(made).aux["pairs"]
    for one, two in zip(jax.tree.leaves(pairs[FACES[0]]), jax.tree.leaves(pairs[FACES[1]]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


def test_coefficient_is_the_distance_to_whether_a_pair_matches(rng):
    made = batch(Config.tiny(), rng, 6)
    output = forward("aicanet")(made)
    total = 0.0
    for row in range(6):
        squares = [
            (1 / (1 + np.exp(-5 * float(output.aux["pairs"][face]["label"][row]))) - made.target["match"][row, k]) ** 2
            for k, face in enumerate(FACES)
        ]
        total += np.sqrt(sum(squares))
    assert float(output.aux["losses"]["coefficient"].value) == pytest.approx(total / 6, rel=1e-5)


def test_takes_a_voice_and_two_faces():
    with pytest.raises(ValueError, match="a voice with two faces"):
        Config((Precomputed("voice", (4, 6)),), {"match": 2})


def test_a_voice_alone_says_nothing(rng):
    """Without faces there is no pair, and all voices are one."""
    made = batch(Config.tiny(), rng, 3)
    for face in FACES:
        stream = made.streams[face]
        made.streams[face] = stream.replace(valid=np.zeros_like(stream.valid))
    logits = np.asarray(forward("aicanet")(made).logits["match"])
    np.testing.assert_array_equal(logits, jnp.broadcast_to(logits[:1], logits.shape))


def test_scores_are_of_every_pair_within_the_batch(rng):
    """Each row's own first; two of them are as far apart as the logits of a triplet, seen in both orders."""
    made = batch(Config.tiny(), rng, 5)
    made.target["identity"] = np.eye(5, dtype=np.float32)[[0, 1, 0, 2, 3]]
    made = made.replace(weight=np.array([1, 1, 1, 1, 0], np.float32))
    own = np.asarray(made.target["match"]).argmax(axis=1)
    faces = np.stack([np.asarray(made.streams[face].values) for face in FACES], axis=1)[np.arange(5), own]
    scores = {name: np.asarray(x) for name, x in forward("aicanet")(made).aux["scores"].items()}
    possible = {(voice, face): voice == face or {voice, face} != {0, 2} for voice in range(4) for face in range(4)}
    for step in range(5):
        behind = np.roll(np.arange(5), -step)
        margins = []
        for places in ((faces, faces[behind]), (faces[behind], faces)):
            streams = {face: made.streams[face].replace(values=at) for face, at in zip(FACES, places, strict=True)}
            logits = np.asarray(forward("aicanet")(made.replace(streams=made.streams | streams)).logits["match"])
            margins.append(logits[:, 0] - logits[:, 1])
        apart = (margins[0] - margins[1]) / 2
        for voice in range(5):
            face = int(behind[voice])
            found = scores["voice_to_face"][voice, step]
            assert scores["face_to_voice"][face, -step % 5] == found
            if possible.get((voice, face)):
                wanted = scores["voice_to_face"][voice, 0] - found
                np.testing.assert_allclose(wanted, apart[voice], rtol=1e-4, atol=1e-5)
            else:
                assert found == -np.inf


@pytest.mark.long
def test_a_spectral_model_trains_in_turns(rng):
    """The discriminator alone in the first step, all but it in the second; directions go on in both."""
    config = dataclasses.replace(Config.tiny(), spectral=True)
    params = nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))), nnx.Param)
    chain = Alternating(AdamW(1e-2, warmup=0.0), rate=0.1).build(params, 10)
    terms = WithTerms(weights=(("distance", 1.0), ("modality", 0.5), ("coefficient", 0.25)))
    made, params, buffers = tiny.steps(config.build(nnx.Rngs(0)), chain, objective=terms)
    state, given = made.create(tiny.randomise(params, rng, 0.1), buffers), batch(config, rng, 4)
    train = tiny.jit(made.train)
    for moves in (True, False):
        after, _ = train(state, given, jax.random.key(0))
        for part in state.params:
            pairs = zip(jax.tree.leaves(state.params[part]), jax.tree.leaves(after.params[part]), strict=True)
            moved = any((a != b).any() for a, b in pairs)
            assert moved == ((part == "discriminate") == moves), part
        direction = [s.buffers["voice"]["embed"]["direction"] for s in (state, after)]
        assert np.abs(direction[1] - direction[0]).max() > 0
        assert np.linalg.norm(direction[1]) == pytest.approx(1, rel=1e-5)
        state = after
