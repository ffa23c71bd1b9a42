"""Charts: places of points by hand, gaps where there is no number, round ticks, words escaped."""

from __future__ import annotations

import math
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.charts import Bar, Line


def paths(drawn: str, word: str) -> list[str]:
    return re.findall(rf'<path class="{word}[^"]*" d="([^"]*)"', drawn)


def test_a_line_stands_where_its_values_are() -> None:
    drawn = charts.lines("seen", [Line("one", [0, 1, 2], [0.0, 0.5, 1.0], dots=True)], x="x", y="y", y_range=(0.0, 1.0))
    assert paths(drawn, "line") == ["M0.00 100.00L50.00 50.00L100.00 0.00"]
    assert paths(drawn, "dots") == ["M0.00 100.00h0M50.00 50.00h0M100.00 0.00h0"]


def test_what_is_no_number_leaves_a_gap() -> None:
    curve = Line("one", [0, 1, 2, 3], [0.0, math.nan, None, 1.0], [0.0, 0.0, 0.0, 0.5], [0.0, 0.5, math.inf, 1.0])
    drawn = charts.lines("seen", [curve], x="x", y="y", y_range=(0.0, 1.0))
    assert paths(drawn, "line") == ["M0.00 100.00M100.00 0.00"]
    assert paths(drawn, "band") == ["M0.00 100.00L33.33 50.00L33.33 100.00L0.00 100.00ZM100.00 0.00L100.00 50.00Z"]
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_amounts_are_stacked() -> None:
    parts = [("low", [0.25, 0.25], 1), ("high", [0.5, 0.25], 2)]
    drawn = charts.stacked("seen", [0, 1], parts, x="x", y="y", y_range=(0.0, 1.0))
    assert paths(drawn, "line") == ["M0.00 75.00L100.00 75.00", "M0.00 25.00L100.00 50.00"]


def test_bars_go_out_from_zero_and_stay_within() -> None:
    rows = [Bar("below", -0.5, -0.6, -0.4), Bar("beyond", 3.0), Bar("none", None, text="why")]
    drawn = charts.bars("seen", rows, axis=(-1.0, 1.0), zero=0.0, filled=True)
    assert re.findall(r'bar-of" style="left:([\d.]+)%;width:([\d.]+)%', drawn) == [
        ("25.00", "25.00"),
        ("50.00", "50.00"),
    ]
    assert "−0.50" in drawn
    assert "why" in drawn


def test_cells_are_as_strong_as_their_values() -> None:
    drawn = charts.heat("seen", ["row"], list("abcd"), [[-2.0, 0.0, 1.0, None]], axis=(-1.0, 2.0), middle=0.0)
    assert re.findall(r'--v:(\d+)" class="([^"]*)"', drawn) == [
        ("100", "below strong "), ("0", ""), ("50", ""), ("0", "zero"),
    ]  # fmt: skip


def test_a_violin_has_its_quartiles(rng: np.random.Generator) -> None:
    values = rng.uniform(0.2, 0.8, 300)
    drawn = charts.violin("seen", [("one", values, 1), ("empty", np.array([]), 2)], y="y", axis=(0.0, 1.0))
    first, third = map(float, re.search(r"M25\.00 ([\d.]+)V([\d.]+)", paths(drawn, "box")[0]).groups())
    assert (first, third) == pytest.approx(tuple(100 - 100 * np.quantile(values, [0.25, 0.75])), abs=0.01)
    assert len(paths(drawn, "body")) == 1


@hypothesis.given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_within(low: float, width: float, most: int) -> None:
    found = charts.ticks(low, low + width, most)
    assert len(found) <= most
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in found)
    # Each tick is rounded to 12 decimals, and to a float of its size; a second difference adds four of them.
    assert np.allclose(np.diff(found, 2), 0, atol=4 * (1e-12 + np.finfo(float).eps * (abs(low) + width)))


def test_numbers_are_short() -> None:
    texts = [charts.number(value) for value in (0.0, 0.12345, -0.5, 12.34, 1234.5, -1234.5, 1e-7, math.nan)]
    assert texts == ["0", "0.123", "−0.5", "12.3", "1,234", "−1,234", "1e-7", "–"]


def test_words_are_escaped() -> None:
    hostile = '"><script>'
    curves = [Line(hostile, [0, 1], [0, 1]), Line("other", [0, 1], [0, 1])]
    for drawn in (
        charts.lines(hostile, curves, x=hostile, y=hostile, x_ticks=[(0, hostile)]),
        charts.bars(hostile, [Bar(hostile, 1.0, text=hostile)]),
        charts.heat(hostile, [hostile], [hostile], [[1.0]], axis=(0.0, 1.0), small=[[hostile]], corner=hostile),
        charts.violin(hostile, [(hostile, np.ones(3), 1)], y=hostile, axis=(0.0, 1.0)),
    ):
        assert "<script" not in drawn
        assert drawn.count("&#34;&gt;&lt;script&gt;") >= 3
