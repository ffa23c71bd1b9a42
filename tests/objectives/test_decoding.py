"""Decoding against all paths and all transcripts."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.decoding import collapse, greedy, prefix_beam_search
from avjax.objectives.sequence import ctc


def of_transcripts(probabilities):
    """Transcript -> probability, path by path."""
    found = {}
    for path in itertools.product(range(probabilities.shape[1]), repeat=len(probabilities)):
        chance = np.prod([probabilities[t, token] for t, token in enumerate(path)])
        found[collapse(path)] = found.get(collapse(path), 0.0) + chance
    return found


def test_collapse():
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == (1, 1, 2)
    assert collapse([0, 0]) == collapse([]) == ()


def test_greedy_takes_valid_steps(rng):
    probabilities = np.eye(3)[[[1, 1, 0, 1], [2, 0, 2, 2]]]
    assert greedy(probabilities) == [(1, 1), (2, 2)]
    valid = np.array([[True, True, False, True], [False, False, True, True]])
    assert greedy(probabilities, valid) == [(1,), (2,)]


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_a_wide_beam_finds_every_transcript_and_its_probability(seed, steps, tokens):
    probabilities = np.random.default_rng(seed).dirichlet(np.full(tokens, 0.5), steps)
    expected = of_transcripts(probabilities)
    found = prefix_beam_search(probabilities, beam=10**6)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert {each.tokens for each in found} == set(expected)
    for each in found:
        assert np.exp(each.score) == pytest.approx(expected[each.tokens], rel=1e-9)


def test_the_best_transcript_is_not_the_best_path():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert greedy(probabilities[None]) == [()]
    best, other = prefix_beam_search(probabilities)
    assert (best.tokens, other.tokens) == ((1,), ())
    assert np.exp(best.score) == pytest.approx(0.64)
    assert prefix_beam_search(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))[0].tokens == (1, 1)


def test_a_narrow_beam_never_claims_more_than_there_is(rng):
    probabilities = rng.dirichlet(np.ones(4), 6)
    expected = of_transcripts(probabilities)
    for beam in (1, 3):
        found = prefix_beam_search(probabilities, beam=beam)
        assert len(found) <= beam
        assert all(np.exp(each.score) <= expected[each.tokens] * (1 + 1e-9) for each in found)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_joint_scores(share, rng):
    probabilities = rng.dirichlet(np.ones(3), 4)
    following = {}

    def decoder(prefix):
        if prefix not in following:
            following[prefix] = np.log(rng.dirichlet(np.ones(3)))
        return following[prefix]

    found = prefix_beam_search(probabilities, beam=10**6, decoder=decoder, ctc=share)
    expected = {}
    for tokens, chance in of_transcripts(probabilities).items():
        said = sum(decoder(tokens[:at])[token] for at, token in enumerate((*tokens, 0)))
        expected[tokens] = share * np.log(chance) + (1 - share) * said
    assert {each.tokens for each in found} == set(expected)
    for each in found:
        assert each.score == pytest.approx(expected[each.tokens], rel=1e-9)
    assert found[0].tokens == max(expected, key=expected.get)


@pytest.mark.slow
def test_scores_are_those_of_the_loss(rng):
    logits = rng.normal(size=(1, 4, 3)).astype(np.float32)
    found = prefix_beam_search(np.asarray(jax.nn.softmax(jnp.asarray(logits[0]))), beam=100)
    for each in found:
        target = jnp.asarray([[*each.tokens, *[0] * (4 - len(each.tokens))]])
        loss = ctc(jnp.asarray(logits), target, jnp.ones((1, 4), bool), jnp.ones(1)).value
        assert float(loss) == pytest.approx(-each.score, rel=1e-4, abs=1e-5)
