"""Which of many combinations `make test` and `make check` run; the others are left to `make check` and `make long`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pytest


def in_part(*choices: Sequence[Any], one_of: int) -> list[Any]:
    """For pytest: the product of choices, of which about one in ``one_of`` is not long.

    Those whose places add up to a multiple of ``one_of``: where it is not larger than the numbers of choices, each of
    them is among these.
    """
    places = itertools.product(*map(range, map(len, choices)))
    return [
        pytest.param(*values, marks=() if sum(place) % one_of == 0 else pytest.mark.long)
        for place, values in zip(places, itertools.product(*choices), strict=True)
    ]


def in_quick(choices: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """For pytest: choices, of which those not in ``quick`` are slow."""
    return _unless(choices, quick, pytest.mark.slow)


def in_short(choices: Iterable[Any], short: Collection[Any], name: Callable[[Any], str] | None = None) -> list[Any]:
    """For pytest: choices, of which those not in ``short`` are long.

    Args:
      name: of a choice, where its own will not do.
    """
    return _unless(choices, short, pytest.mark.long, name)


def _unless(
    choices: Iterable[Any], among: Collection[Any], mark: pytest.MarkDecorator, name: Callable[[Any], str] | None = None
) -> list[Any]:
    return [pytest.param(one, id=name and name(one), marks=() if one in among else mark) for one in choices]
