"""Lines of the report, and intervals: against loops, published numbers and planted differences."""

from __future__ import annotations

import json
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.measured import (
    Condition,
    Measured,
    OfSums,
    Undefined,
    clustered_bootstrap,
    measured,
    paired_bootstrap,
    wilson,
)

FIELDS = {"id": "consistency/agreement", "version": 1, "estimator": "argmax", "unit": "share", "direction": "higher"}


def test_a_line_is_json_with_every_key_of_the_schema():
    line = Measured(value=0.5, n=8, condition=Condition("white_noise", 3, 0), group="audio", fill="drop", **FIELDS)
    plain = json.loads(json.dumps(line.plain(), allow_nan=False))
    assert set(plain) == {
        "id", "version", "estimator", "target", "fill", "layer", "head", "group", "condition", "value", "ci_lo",
        "ci_hi", "n", "unit", "direction", "null_baseline", "status", "reason",
    }  # fmt: skip
    assert plain["condition"] == {"corruption": "white_noise", "severity": 3, "seed": 0}
    assert plain["layer"] is None
    assert plain["status"] == "ok"
    assert plain["reason"] == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"value": math.nan}, "finite number"),
        ({"value": math.inf}, "finite number"),
        ({"value": 0.5, "ci_lo": math.nan, "ci_hi": 1.0}, "finite number"),
        ({"value": 0.5, "null_baseline": math.inf}, "finite number"),
        ({"value": None}, "goes with a reason"),
        ({"value": None, "status": "undefined"}, "goes with a reason"),
        ({"value": 0.5, "status": "skipped"}, "goes with a reason"),
        ({"value": 0.5, "reason": "because"}, "goes with a reason"),
        ({"value": 0.5, "ci_lo": 0.1}, "two ends"),
        ({"value": None, "status": "undefined", "reason": "because", "ci_lo": 0.1, "ci_hi": 0.2}, "belongs to a value"),
        ({"value": 0.5, "ci_lo": 0.6, "ci_hi": 0.4}, "wrong way round"),
    ],
)
def test_a_line_that_would_mislead_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Measured(n=8, **FIELDS, **wrong)


def test_what_has_no_value_has_its_reason():
    def of(rows):
        raise Undefined("a constant predictor")

    line = measured(of, np.arange(5), **FIELDS)
    assert (line.value, line.status, line.reason, line.n) == (None, "undefined", "a constant predictor", 5)
    assert line.ci_lo is None
    assert line.ci_hi is None
    json.dumps(line.plain(), allow_nan=False)
    with pytest.raises(ValueError, match="finite number"):
        measured(lambda rows: math.nan, np.arange(5), samples=0, **FIELDS)


def test_a_line_holds_the_value_of_all_rows_and_their_interval(rng):
    values, videos = rng.normal(size=60), rng.integers(0, 12, 60)
    line = measured(lambda rows: values[rows].mean(), videos, target="label", **FIELDS)
    assert (line.value, line.n, line.target) == (values.mean(), 60, "label")
    assert (line.ci_lo, line.ci_hi) == clustered_bootstrap(lambda rows: values[rows].mean(), videos)
    assert line.ci_lo < line.value < line.ci_hi


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(2, 6))
def test_a_draw_is_whole_videos_with_repetitions(seed, count, videos):
    rng = np.random.default_rng(seed)
    names = np.array([f"video {name}" for name in rng.integers(0, videos, count)])
    names[:2] = ["video 0", "video 1"]
    drawn = []
    clustered_bootstrap(lambda rows: drawn.append(rows) or 0.0, names, samples=30)
    of = {name: np.flatnonzero(names == name).tolist() for name in set(names)}
    for rows in drawn:
        rows, chosen = rows.tolist(), 0
        while rows:
            whole = of[names[rows[0]]]
            assert rows[: len(whole)] == whole
            rows, chosen = rows[len(whole) :], chosen + 1
        assert chosen == len(of)
    assert {name for rows in drawn for name in names[rows]} == set(names)


def test_the_interval_is_the_middle_of_the_draws_and_repeats(rng):
    values, videos = rng.normal(size=100), np.arange(100) // 2
    draws = []
    low, high = clustered_bootstrap(lambda rows: draws.append(values[rows].mean()) or draws[-1], videos)
    assert len(draws) == 1000
    assert np.quantile(draws, [0.025, 0.975]).tolist() == [low, high]
    again = clustered_bootstrap(lambda rows: values[rows].mean(), videos)
    assert again == (low, high) != clustered_bootstrap(lambda rows: values[rows].mean(), videos, seed=1)
    # The mean of 50 draws of cluster means has this deviation; an end, of 1000 draws, is good to 4 % of it, and the
    # width, four deviations, to some 3 %.
    deviation = values.reshape(50, 2).mean(axis=1).std() / math.sqrt(50)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_what_follows_from_sums_has_the_interval_of_its_draws(rng):
    """Where draws have no value, too: a share of the rows of one kind, of which a draw may have none."""
    values, videos = rng.normal(size=30), rng.integers(0, 8, 30)
    kind = np.arange(30) == 3

    def of_rows(rows):
        if not kind[rows].any():
            raise Undefined("no row of the kind")
        return values[rows][kind[rows]].mean() + len(rows)

    def of_sums(sums, count):
        if not sums[1]:
            raise Undefined("no row of the kind")
        return sums[0] / sums[1] + count

    of = OfSums(np.stack([values * kind, kind], axis=1), of_sums)
    plain, fast = (measured(one, videos, **FIELDS) for one in (of_rows, of))
    assert fast.value == pytest.approx(plain.value, abs=1e-12)
    # The video of the one row is missing from about one draw in three: no interval.
    assert fast.ci_lo is plain.ci_lo is None
    kind[:] = values > np.median(values)
    of = OfSums(np.stack([values * kind, kind], axis=1), of_sums)
    assert clustered_bootstrap(of, videos) == pytest.approx(clustered_bootstrap(of_rows, videos), abs=1e-12)
    mean = OfSums.mean(kind)
    assert mean(np.arange(5)) == kind[:5].mean()
    assert clustered_bootstrap(mean, videos) == pytest.approx(
        clustered_bootstrap(lambda rows: kind[rows].mean(), videos), abs=1e-12
    )
    assert clustered_bootstrap(mean, np.zeros(30)) is None


def test_clips_of_one_video_do_not_count_twice(rng):
    """Ten copies of every clip say nothing new: by source video the interval stays, by clip it would shrink."""
    values = rng.normal(size=40)
    copies, videos = np.repeat(values, 10), np.repeat(np.arange(40), 10)
    once = clustered_bootstrap(lambda rows: values[rows].mean(), np.arange(40))
    by_video = clustered_bootstrap(lambda rows: copies[rows].mean(), videos)
    by_clip = clustered_bootstrap(lambda rows: copies[rows].mean(), np.arange(400))
    assert by_video == pytest.approx(once, abs=1e-12)
    assert by_clip[1] - by_clip[0] < 0.5 * (once[1] - once[0])


def test_no_interval_without_two_videos_or_where_draws_have_no_value():
    assert clustered_bootstrap(lambda rows: 1.0, np.zeros(7, int)) is None
    assert clustered_bootstrap(lambda rows: 1.0, np.zeros(0, int)) is None

    def needs_row_0(rows):
        if 0 not in rows:
            raise Undefined("no row 0")
        return 1.0

    # Row 0 is missing from a draw of 2 with 1/4, and of a draw of 40 with (39/40)^40 = 0.36.
    assert clustered_bootstrap(needs_row_0, np.arange(2)) is None
    assert clustered_bootstrap(needs_row_0, np.arange(40)) is None
    rare = {"calls": 0}

    def rarely_none(rows):
        rare["calls"] += 1
        if rare["calls"] % 25 == 0:
            raise Undefined("one draw in 25")
        return float(rows.mean())

    low, high = clustered_bootstrap(rarely_none, np.arange(30))
    assert low < 14.5 < high


def test_a_paired_interval_sees_what_two_intervals_cannot(rng):
    """Two models with nearly the same errors: the difference is certain though each accuracy is not."""
    hard = rng.normal(size=200)
    one, other = hard + 0.1, hard + rng.normal(scale=0.01, size=200)
    low, high = paired_bootstrap(lambda r: one[r].mean(), lambda r: other[r].mean(), np.arange(200))
    assert 0.09 < low < high < 0.11
    separate = clustered_bootstrap(lambda r: one[r].mean(), np.arange(200))
    assert separate[1] - separate[0] > 10 * (high - low)
    back = paired_bootstrap(lambda r: other[r].mean(), lambda r: one[r].mean(), np.arange(200))
    assert back == pytest.approx((-high, -low), abs=1e-12)
    assert paired_bootstrap(lambda r: one[r].mean(), lambda r: one[r].mean(), np.arange(200)) == (0, 0)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_has_the_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@hypothesis.given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_what_its_test_would_not_reject(case):
    """Both ends solve (p^ - p)^2 = z^2 p (1 - p) / n, and the interval of the failures is the mirror."""
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    z = 1.959963984540054
    for end in (low, high):
        if 0 < end < 1:
            assert (successes / n - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, rel=1e-9, abs=1e-15)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    narrow = wilson(successes, n, confidence=0.5)
    assert low <= narrow[0]
    assert narrow[1] <= high


def test_wilson_of_nothing_is_undefined():
    with pytest.raises(Undefined, match="no rows"):
        wilson(0, 0)
