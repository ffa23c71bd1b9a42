"""Speech recognition: what the decoder may know, and that both losses teach the model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.objectives.decoding import collapse, greedy
from avjax.objectives.sequence import Transcription
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import batch, forward, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_the_decoder_knows_what_came_before(rng):
    """And CTC, with the clip's logits, nothing of the transcript."""
    config, _ = small("dcm")
    made = batch(config, rng, 3)
    told = np.array([[1, 2, 1], [2, 2, 0], [1, 0, 0]], np.float32)
    other = told.copy()
    other[:, 2] = (other[:, 2] + 1) % 3
    one, two = (forward("dcm")(made.replace(target={"text": target})) for target in (told, other))
    for found in (one, two):
        assert found.aux["decoder"]["text"].shape == (3, 4, 3)
    np.testing.assert_array_equal(one.logits["text"], two.logits["text"])
    np.testing.assert_array_equal(one.aux["ctc"]["text"], two.aux["ctc"]["text"])
    before, behind = np.split(np.abs(one.aux["decoder"]["text"] - two.aux["decoder"]["text"]).max(-1), [3], axis=1)
    assert before.max() < 1e-5
    assert behind.min() > 1e-5
    silent = forward("dcm")(made.replace(target={}))
    assert silent.aux["decoder"] == {}
    np.testing.assert_array_equal(one.logits["text"], silent.logits["text"])


def test_both_losses_reach_the_whole_model(rng):
    """With numbers for gradients, whatever is missing."""
    config, model = small("dcm")
    made = without(without(batch(config, rng, 4), [1, 3], "audio"), [2, 3], "video")
    target = np.array([[1, 2, 1], [2, 1, 0], [1, 0, 0], [2, 0, 0]], np.float32)
    made = jax.tree.map(jnp.asarray, made.replace(target={"text": target}))
    graph, params, buffers, constants = split_model(model)

    def loss(params, made):
        model = nnx.merge(graph, params, buffers, constants, copy=True)
        return Transcription(ctc=0.3)(model(made), made)[0]

    value, gradient = tiny.jit(jax.value_and_grad(loss))(params, made)
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        # The bias of keys shifts all scores of a query alike.
        if "key" not in jax.tree_util.keystr(path):
            assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_frames_can_be_decoded(rng):
    """Every frame of one modality counts where the other is missing."""
    config, _ = small("dcm")
    made = without(without(batch(config, rng, 3), [0, 2], "audio"), [2], "video")
    found = forward("dcm")(made)
    valid = np.asarray(found.aux["valid"]["text"])
    assert valid[:2].all()
    assert not valid[2].any()
    probabilities = np.asarray(Transcription().predictions(found)["text"])
    said = greedy(probabilities, valid)
    assert said[0] == collapse(probabilities[0].argmax(-1).tolist())
    assert said[2] == ()
