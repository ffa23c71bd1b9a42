"""Error rates: classic cases, a plain recursion, properties of a distance."""

from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import pytest

from avjax.training import metrics
from avjax.training.metrics import Edits

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


def recursive(one: tuple, two: tuple) -> int:
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        swap = distance(i - 1, j - 1) + (one[i - 1] != two[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(one), len(two))


@hypothesis.given(WORDS, WORDS, WORDS)
@hypothesis.settings(max_examples=100)
def test_the_fewest_edits(one, two, three):
    found = metrics.edits(one, two)
    assert found.count == recursive(tuple(one), tuple(two))
    assert found.length == len(two)
    assert found.inserted - found.deleted == len(one) - len(two)
    back = metrics.edits(two, one)
    assert (back.deleted, back.inserted, back.substituted) == (found.inserted, found.deleted, found.substituted)
    assert found.count <= metrics.edits(one, three).count + metrics.edits(three, two).count


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ("the cat sat", "the cat sat", Edits(0, 0, 0, 3)),
        ("the cat", "the cat sat", Edits(0, 1, 0, 3)),
        ("the the cat sat", "the cat sat", Edits(0, 0, 1, 3)),
        ("a bat sat", "the cat sat", Edits(2, 0, 0, 3)),
        ("", "the cat sat", Edits(0, 3, 0, 3)),
        ("the cat", "", Edits(0, 0, 2, 0)),
        ("  the   cat sat ", "the cat sat", Edits(0, 0, 0, 3)),
    ],
)
def test_words(predicted, true, expected):
    assert metrics.word_errors(predicted, true) == expected


def test_characters():
    assert metrics.character_errors("sitting", "kitten") == Edits(2, 0, 1, 6)
    assert metrics.character_errors("ab  c", "ab c") == Edits(0, 0, 0, 4)


def test_rates_are_over_all_sentences():
    assert metrics.error_rate([Edits(1, 0, 0, 1), Edits(0, 0, 0, 9)]) == 0.1
    assert metrics.error_rate([Edits(0, 0, 3, 1)]) == 3
    assert metrics.error_rate([]) == metrics.error_rate([Edits(0, 0, 0, 0)]) == 0
    assert metrics.error_rate([Edits(0, 0, 2, 0)]) == 1


def test_table():
    found = metrics.estimates(
        metrics.transcription_measures(lambda: ["bin blue", "set red now"], ["bin blue", "set white now"]), 10
    )
    assert found["wer"].value == pytest.approx(1 / 5)
    # "red" for "white" takes five edits, of 8 and 13 characters.
    assert found["cer"].value == pytest.approx(5 / 21)
    assert found["wer"].low <= found["wer"].value <= found["wer"].high
