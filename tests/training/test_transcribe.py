"""Joint decoding asks a decoder what teacher forcing tells it, and finds what a search through everything finds."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.decoding import collapse
from avjax.training.transcribe import attention_scores, joint_search
from tests.models import tiny
from tests.models.systems import batch, small


def test_a_decoder_is_asked_for_what_follows_a_prefix(rng):
    asked = []
    table = np.log(rng.dirichlet(np.ones(5), (1, 4)))

    def follow(labels):
        asked.append(labels.copy())
        return table

    decoder = attention_scores(follow, 3)
    for prefix in ((), (2,), (2, 4), (2, 4, 4)):
        np.testing.assert_array_equal(decoder(prefix), table[0, len(prefix)])
        np.testing.assert_array_equal(asked[-1], [[0, *prefix, *[0] * (3 - len(prefix))]])
    np.testing.assert_array_equal(decoder((2, 4, 4, 1)), np.full(5, -np.inf))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_best_of_both_is_found(share, rng):
    probabilities = rng.dirichlet(np.ones(3), 4)
    following = {}

    def decoder(prefix):
        return following.setdefault(prefix, np.log(rng.dirichlet(np.ones(3))))

    chances = {}
    for path in itertools.product(range(3), repeat=4):
        chance = np.prod([probabilities[step, token] for step, token in enumerate(path)])
        chances[collapse(path)] = chances.get(collapse(path), 0.0) + chance

    def score(tokens):
        said = sum(decoder(tokens[:at])[token] for at, token in enumerate((*tokens, 0)))
        return share * np.log(chances[tokens]) + (1 - share) * said

    assert joint_search(probabilities, decoder, ctc=share, beam=1000) == max(chances, key=score)


def test_nothing_heard_is_nothing_said():
    assert joint_search(np.zeros((0, 3)), lambda prefix: np.log([0.6, 0.2, 0.2])) == ()


@pytest.mark.slow
def test_prefix_by_prefix_is_teacher_forcing(rng):
    config, model = small("dcm")
    made = batch(config, rng, 2).replace(target={"text": np.array([[1, 2, 1, 0], [2, 0, 0, 0]])})
    output = tiny.jit(lambda made: model(made))(jax.tree.map(jnp.asarray, made))
    taught = np.asarray(jax.nn.log_softmax(output.aux["decoder"]["text"]))
    follow = tiny.jit(lambda labels, contexts: jax.nn.log_softmax(model.decode["text"](labels, contexts)))
    for row, sentence in enumerate([(1, 2, 1), (2,)]):
        own = jax.tree.map(lambda x, row=row: x[row : row + 1], output.tokens)
        decoder = attention_scores(lambda labels, own=own: follow(labels, own), 4)
        for length in range(len(sentence) + 1):
            np.testing.assert_allclose(decoder(sentence[:length]), taught[row, length], atol=1e-5)
