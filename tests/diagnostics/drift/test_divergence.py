"""CMSD and its companions: known answers, the exact split, and SciPy's versions."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from avjax.diagnostics.drift.divergence import (
    correlation,
    cosine,
    distributions,
    drift,
    earth_mover_grid,
    earth_mover_time,
    jensen_shannon,
    rank_correlation,
    top_iou,
    total_variation,
)
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)
NAMES = ("audio", "video")
TWO_BY_TWO = ("audio", "audio", "video", "video")
# JSD_2 of the coin (1/2, 1/2) with the sure one: 1 - 3/4 h(1/3) by hand, = 3/2 - 3/4 log2(3).
HALF = 1.5 - 0.75 * np.log2(3)


def coin(p: float) -> float:
    """Its entropy, in bits."""
    return -sum(x * np.log2(x) for x in (p, 1 - p) if x > 0)


def states(rng: np.random.Generator, rows: int, cells: int) -> np.ndarray:
    """Random distributions from peaked to flat, with cells of no mass."""
    mass = rng.gamma(rng.choice([0.05, 1.0, 20.0]), size=(rows, cells)) * (rng.random((rows, cells)) < 0.8)
    mass[:, 0] += 1e-3
    return mass / mass.sum(axis=1, keepdims=True)


def by_loops(p: np.ndarray, q: np.ndarray, weight: float = 0.5) -> float:
    """JSD from its definition."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        middle = weight * a + (1 - weight) * b
        total += weight * a * (np.log2(a) - np.log2(middle)) if a > 0 and weight > 0 else 0.0
        total += (1 - weight) * b * (np.log2(b) - np.log2(middle)) if b > 0 and weight < 1 else 0.0
    return total


@pytest.mark.parametrize(
    ("one", "other", "closed", "printed"),
    [
        ([0.5, 0.5], [1.0, 0.0], HALF, 0.31128),
        ([0.8, 0.2], [0.5, 0.5], coin(0.65) - (coin(0.8) + 1) / 2, 0.07310),
        ([0.6, 0.4], [0.4, 0.6], 1 - coin(0.4), 0.02905),
    ],
)
def test_known_answers(one, other, closed, printed):
    """KA of two cells, one a modality: all of it is allocation."""
    found = drift(np.asarray(one), np.asarray(other), NAMES, NAMES)
    assert float(found.total) == pytest.approx(closed, abs=1e-15)
    assert float(found.total) == pytest.approx(printed, abs=5e-6)
    assert float(found.allocation) == float(found.total)
    np.testing.assert_array_equal(found.localisation, [0, 0])


def test_the_root_of_a_known_answer():
    """KA: sqrt(.02905) = .17044."""
    found = drift(np.array([0.6, 0.4]), np.array([0.4, 0.6]), NAMES, NAMES)
    assert float(np.sqrt(found.total)) == pytest.approx(0.17044, abs=5e-6)


def test_pure_relocalisation():
    """KA: [.4 .1 | .3 .2] to [.1 .4 | .2 .3]: no allocation, .5 * .27807 + .5 * .02905 = .15356."""
    one, other = np.array([0.4, 0.1, 0.3, 0.2]), np.array([0.1, 0.4, 0.2, 0.3])
    found = drift(one, other, TWO_BY_TWO, NAMES)
    assert float(found.allocation) == 0
    np.testing.assert_allclose(found.localisation, [(1 - coin(0.2)) / 2, (1 - coin(0.4)) / 2], rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.localisation, [0.5 * 0.27807, 0.5 * 0.02905], rtol=0, atol=5e-6)
    assert float(found.total) == pytest.approx(0.15356, abs=5e-6)


@hypothesis.given(seeds, st.integers(2, 20))
def test_identical_states_have_none_and_disjoint_ones_all(seed, cells):
    """KA: 0 and 1."""
    rng = np.random.default_rng(seed)
    one = states(rng, 3, cells)
    groups = tuple(rng.choice(NAMES, cells))
    same = drift(one, one, groups, NAMES)
    assert not same.total.any()
    assert not same.allocation.any()
    assert not same.localisation.any()
    apart = drift(np.pad(one, ((0, 0), (0, cells))), np.pad(one, ((0, 0), (cells, 0))), groups * 2, NAMES)
    np.testing.assert_allclose(apart.total, 1, rtol=0, atol=1e-14)
    ends = np.eye(cells)
    assert float(drift(ends[0], ends[1], groups, NAMES).total) == 1


@hypothesis.given(seeds, st.integers(2, 20), st.integers(1, 4))
def test_the_split_is_exact_and_all_parts_are_in_range(seed, cells, modalities):
    """CMSD = D_alloc + sum_g D_loc,g, with modalities without cells or mass among them."""
    rng = np.random.default_rng(seed)
    names = tuple(f"m{g}" for g in range(modalities))
    groups = tuple(rng.choice(names, cells))
    one, other = states(rng, 6, cells), states(rng, 6, cells)
    found = drift(one, other, groups, names)
    # On either side each cell gives two halves of p log2(p / m), at most 1: three roundings, and one of the sum.
    rounding = 2 * cells * 4 * np.finfo(np.float64).eps
    np.testing.assert_allclose(found.allocation + found.localisation.sum(axis=1), found.total, rtol=0, atol=rounding)
    for part in found:
        assert ((part >= 0) & (part <= 1)).all()
    back = drift(other, one, groups, names)
    np.testing.assert_allclose(back.total, found.total, rtol=0, atol=1e-15)
    assert (found.total <= total_variation(one, other) + 1e-15).all()
    for row, (p, q) in enumerate(zip(one, other, strict=True)):
        assert found.total[row] == pytest.approx(by_loops(p, q), abs=1e-14)
        m = [np.array([side[np.array(groups) == name].sum() for name in names]) for side in (p, q)]
        assert found.allocation[row] == pytest.approx(by_loops(*m), abs=1e-14)
        for g, name in enumerate(names):
            inside = np.array(groups) == name
            if m[0][g] > 0 and m[1][g] > 0:
                weight = m[0][g] / (m[0][g] + m[1][g])
                local = by_loops(p[inside] / m[0][g], q[inside] / m[1][g], weight)
                assert found.localisation[row, g] == pytest.approx((m[0][g] + m[1][g]) / 2 * local, abs=1e-14)
            else:
                assert found.localisation[row, g] == 0


@hypothesis.given(seeds, st.integers(2, 20), st.floats(1e-12, 1))
def test_the_root_is_a_metric(seed, cells, size):
    """The triangle inequality, also between states that are next to each other."""
    rng = np.random.default_rng(seed)
    far = states(rng, 3, cells)
    a, b, c = distributions((1 - size) * far[0] + size * far)
    groups = ("audio",) * cells
    ab, bc, ac = (float(np.sqrt(drift(x, y, groups, NAMES).total)) for x, y in ((a, b), (b, c), (a, c)))
    # Terms are sums of quantities that are never negative: rounding moves a root by some eps, not by its root.
    assert ac <= ab + bc + 1e-14


@hypothesis.given(seeds, st.sampled_from([0.0, 1.0]) | st.floats(1e-9, 1))
def test_weighted_divergence_is_bounded_by_the_coins_entropy(seed, weight):
    rng = np.random.default_rng(seed)
    one, other = states(rng, 5, 9), states(rng, 5, 9)
    found = jensen_shannon(one, other, weight)
    assert ((found >= 0) & (found <= coin(weight) + 1e-14)).all()
    expected = [by_loops(p, q, weight) for p, q in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    halves = [by_loops(p, q, 0.5) for p, q in zip(one, other, strict=True)]
    np.testing.assert_allclose(jensen_shannon(one, other), halves, rtol=0, atol=1e-14)
    root = [scipy.spatial.distance.jensenshannon(p, q, base=2) for p, q in zip(one, other, strict=True)]
    np.testing.assert_allclose(jensen_shannon(one, other), np.square(root), rtol=0, atol=1e-13)


def test_a_weight_of_next_to_nothing_is_none(rng):
    """Whose inverse overflows, as where a modality's whole mass is below the normal numbers."""
    one, other = states(rng, 2, 9)
    assert float(jensen_shannon(one, other, 1e-309)) == 0


def test_small_drift_keeps_its_digits():
    """JSD_2 of a coin moved by e is e^2 / (2 ln 2) to first order."""
    moved = 1e-7
    found = drift(np.array([0.5, 0.5]), np.array([0.5 + moved, 0.5 - moved]), NAMES, NAMES)
    assert float(found.total) == pytest.approx(moved**2 / (2 * np.log(2)), rel=1e-6)


def test_what_is_no_state_is_refused():
    for wrong in ([0.5, 0.4], [1.5, -0.5], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="sum is 1"):
            drift(np.array(wrong), np.array([0.5, 0.5]), NAMES, NAMES)


def test_states_kept_in_float32(rng):
    one, other = states(rng, 4, 65), states(rng, 4, 65)
    groups = ("audio",) * 16 + ("video",) * 49
    short = drift(one.astype(np.float32), other.astype(np.float32), groups, NAMES)
    np.testing.assert_allclose(short.total, drift(one, other, groups, NAMES).total, rtol=0, atol=1e-5)
    assert short.total.dtype == np.float64


@hypothesis.given(seeds, st.integers(3, 12))
def test_companions_are_scipys(seed, cells):
    rng = np.random.default_rng(seed)
    one, other = states(rng, 4, cells) + np.arange(cells), rng.integers(0, 4, (4, cells))
    other[:, :2] = [0, 1]
    for row, (p, q) in enumerate(zip(one, other, strict=True)):
        assert rank_correlation(one, other)[row] == pytest.approx(scipy.stats.spearmanr(p, q).statistic, abs=1e-12)
        assert correlation(one, other)[row] == pytest.approx(scipy.stats.pearsonr(p, q).statistic, abs=1e-12)
        assert cosine(one, other)[row] == pytest.approx(1 - scipy.spatial.distance.cosine(p, q), abs=1e-12)
    p, q = states(rng, 4, cells), states(rng, 4, cells)
    steps = np.arange(cells)
    expected = [scipy.stats.wasserstein_distance(steps, steps, a, b) / (cells - 1) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(earth_mover_time(p, q), expected, rtol=0, atol=1e-12)


def test_companions_without_a_value():
    with pytest.raises(Undefined, match="1 of 2 rows"):
        rank_correlation(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(Undefined, match="no direction"):
        cosine(np.zeros(3), np.ones(3))
    with pytest.raises(Undefined, match="one step"):
        earth_mover_time(np.ones(1), np.ones(1))
    with pytest.raises(Undefined, match="one cell"):
        earth_mover_grid(np.ones((1, 1)), np.ones((1, 1)))


def test_earth_movers_over_time():
    """KA of five bins: delta 0 to delta 4 is 1, to delta 1 is .25."""
    bins = np.eye(5)
    np.testing.assert_array_equal(earth_mover_time(bins[[0, 0, 2]], bins[[4, 1, 2]]), [1, 0.25, 0])


@hypothesis.given(seeds, st.integers(2, 6))
def test_earth_movers_over_a_grid(seed, side):
    """Corner to corner is 1; a line of cells is time; a metric that no shift escapes."""
    rng = np.random.default_rng(seed)
    corner, opposite = np.zeros((side, side)), np.zeros((side, side))
    corner[0, 0] = opposite[-1, -1] = 1
    assert earth_mover_grid(corner, opposite) == pytest.approx(1, abs=1e-12)
    assert earth_mover_grid(corner, corner) == 0
    one, other = states(rng, 2, side)
    along = earth_mover_grid(one[None], other[None])
    assert along == pytest.approx(float(earth_mover_time(one, other)), abs=1e-7)
    a, b, c = (states(rng, 1, side * side).reshape(side, side) for _ in range(3))
    assert earth_mover_grid(a, b) == pytest.approx(earth_mover_grid(b, a), abs=1e-7)
    assert earth_mover_grid(a, c) <= earth_mover_grid(a, b) + earth_mover_grid(b, c) + 1e-7


def test_earth_movers_on_the_fixed_grid(rng):
    """Mass moved by one cell of 7 x 7 travels 1 / (6 sqrt 2)."""
    one = np.zeros((7, 7))
    one[2:4, :6] = rng.random((2, 6))
    one /= one.sum()
    shifted = np.roll(one, 1, axis=1)
    assert earth_mover_grid(one, shifted) == pytest.approx(1 / (6 * np.sqrt(2)), abs=1e-7)


def test_top_iou():
    one = np.arange(20.0)
    assert top_iou(one, one) == 1
    assert top_iou(one, -one) == 0
    # The top two of twenty cells are 19 and 18, and 18 and 17: one of three.
    assert top_iou(one, np.where(one == 19, 0, one)) == pytest.approx(1 / 3)
    # Ten per cent of thirty is three cells, and of sixty-five seven.
    assert top_iou(np.arange(30.0), np.roll(np.arange(30.0), 2)) == pytest.approx(1 / 5)
    assert top_iou(np.arange(65.0), np.roll(np.arange(65.0), 6)) == pytest.approx(1 / 13)


def test_total_variation():
    assert total_variation(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == 0.5
    assert total_variation(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == 1
