"""Which of many combinations `make check` runs; the others are left to `make long`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
