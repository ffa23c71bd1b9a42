"""Robustness: known answers, and MultiBench's own curves."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.consistency.robustness import (
    OverSubsets,
    absolute_robustness,
    among_methods,
    area_under_noise,
    chance_adjusted_retention,
    effective_robustness,
    mean_corruption_error,
    mean_performance,
    over_subsets,
    relative_area_under_noise,
    relative_performance,
    retention,
)
from avjax.diagnostics.measured import Undefined

shares = st.floats(0.01, 1)

# Accuracy on CMU-MOSI (one row MOSEI) as noise on all modalities (one row: on audio) rises from 0 to 0.9, as MultiBench
# stores it in eval_scripts/robustness.py (MIT).
CURVES = {
    "MulT": [0.8337, 0.7488, 0.6693, 0.6526, 0.5884, 0.5206, 0.4979, 0.4965, 0.4995, 0.4858],
    "LF": [0.7521, 0.7025, 0.6212, 0.5535, 0.5297, 0.4811, 0.4891, 0.4672, 0.4541, 0.4469],
    "LF-Transformer": [0.7982, 0.7287, 0.6902, 0.6407, 0.5902, 0.5123, 0.4833, 0.4623, 0.4524, 0.4449],
    "GradBlend": [0.7543, 0.7122, 0.6568, 0.6443, 0.6179, 0.532, 0.5014, 0.4823, 0.4902, 0.4899],
    "MulT, audio": [0.8337, 0.753, 0.7139, 0.6833, 0.6314, 0.6062, 0.6121, 0.5862, 0.5923, 0.5736],
    "MulT, MOSEI": [0.8152, 0.7505, 0.6632, 0.6454, 0.589, 0.5226, 0.5028, 0.4958, 0.496, 0.4525],
}
MOSI = {name: np.array(curve) for name, curve in CURVES.items()}


def test_identical_under_corruption():
    """KA: A the same -> rho = 1."""
    assert retention(0.65, 0.65) == absolute_robustness(0.65, 0.65) == chance_adjusted_retention(0.65, 0.65, 0.01) == 1


def test_retention_of_309_classes():
    """KA: clean 0.65, corrupted 0.35: rho 0.5385, rho~ 0.5362."""
    assert retention(0.65, 0.35) == pytest.approx(7 / 13, abs=1e-15)
    assert f"{retention(0.65, 0.35):.4f}" == "0.5385"
    adjusted = chance_adjusted_retention(0.65, 0.35, 1 / 309)
    # (0.35 - 1/309) / (0.65 - 1/309), both times 6180.
    assert adjusted == pytest.approx(2143 / 3997, abs=1e-15)
    assert f"{adjusted:.4f}" == "0.5362"
    assert absolute_robustness(0.65, 0.35) == pytest.approx(0.7, abs=1e-15)


def test_chance_matters_for_few_classes():
    """Of two classes, 0.9 fallen to 0.5 keeps over half of itself and nothing of what it knew."""
    assert retention(0.9, 0.5) == pytest.approx(5 / 9)
    assert chance_adjusted_retention(0.9, 0.5, 0.5) == 0
    assert chance_adjusted_retention(0.9, 0.3, 0.5) == pytest.approx(-0.5)


@hypothesis.given(shares, shares, st.floats(0, 0.99))
def test_retention_is_one_less_the_relative_drop(clean, corrupted, chance):
    assert retention(clean, corrupted) == pytest.approx(1 - (clean - corrupted) / clean, abs=1e-9)
    assert chance_adjusted_retention(clean, corrupted, 0.0) == retention(clean, corrupted)
    if clean > chance + 1e-3:
        kept = chance_adjusted_retention(clean, corrupted, chance)
        assert kept * (clean - chance) + chance == pytest.approx(corrupted, abs=1e-9)
        if corrupted < clean:
            assert kept <= retention(clean, corrupted) + 1e-12


def test_nothing_to_keep_is_undefined():
    with pytest.raises(Undefined, match="nothing was right"):
        retention(0.0, 0.0)
    for clean in (0.5, 0.4):
        with pytest.raises(Undefined, match=r"not above chance 0\.5"):
            chance_adjusted_retention(clean, 0.4, 0.5)


def test_performance_over_corruptions(rng):
    table = rng.random((6, 5))
    assert mean_performance(table) == pytest.approx(sum(table.ravel().tolist()) / 30)
    assert relative_performance(0.8, table) == pytest.approx(np.mean([retention(0.8, each) for each in table.ravel()]))
    assert relative_performance(0.8, np.full((3, 5), 0.8)) == pytest.approx(1)
    with pytest.raises(Undefined, match="no corruptions"):
        mean_performance(np.zeros((0, 5)))


def test_corruption_error_is_relative_to_the_reference(rng):
    errors, reference = rng.uniform(0.1, 0.9, (2, 4, 5))
    loops = [sum(errors[c, s] for s in range(5)) / sum(reference[c, s] for s in range(5)) for c in range(4)]
    assert mean_corruption_error(errors, reference) == pytest.approx(sum(loops) / 4)
    assert mean_corruption_error(reference, reference) == 1
    assert mean_corruption_error(reference / 2, reference) == pytest.approx(0.5)
    # Severities are summed before they are divided: an easy one does not weigh as much as a hard one.
    assert mean_corruption_error(np.array([[0.2, 0.8]]), np.array([[0.1, 0.9]])) == pytest.approx(1.0)
    with pytest.raises(Undefined, match="makes no error"):
        mean_corruption_error(errors, reference * np.array([[1], [0], [1], [1]]))
    with pytest.raises(Exception, match=r"the same|Type-check"):
        mean_corruption_error(errors, reference[:, :1])


def test_the_area_under_a_flat_curve_is_not_its_height():
    """KA: flat 0.8 over ten levels -> RR 0.72; over eleven 0.8."""
    assert area_under_noise(np.full(10, 0.8)) == pytest.approx(0.72, abs=1e-15)
    assert area_under_noise(np.full(11, 0.8)) == pytest.approx(0.8, abs=1e-15)
    for levels in (9, 10, 11):
        assert relative_area_under_noise(np.full(levels, 0.8)) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "first", "last", "area"),
    [
        ("MulT", "0.834", "0.486", "0.533"),
        ("LF", "0.752", "0.447", "0.490"),
        ("LF-Transformer", "0.798", "0.445", "0.518"),
        ("GradBlend", "0.754", "0.490", "0.526"),
        ("MulT, audio", "0.834", "0.574", "0.588"),
        ("MulT, MOSEI", "0.815", "0.452", None),
    ],
)
def test_relative_robustness_of_multibench(name, first, last, area):
    curve = MOSI[name]
    assert abs(curve[0] - float(first)) <= 5.1e-4
    assert abs(curve[-1] - float(last)) <= 5.1e-4
    loops = sum((curve[i] + curve[i + 1]) * 0.1 / 2 for i in range(9))
    assert area_under_noise(curve) == pytest.approx(loops, abs=1e-12)
    assert relative_area_under_noise(curve) == pytest.approx(loops / (0.9 * curve[0]), abs=1e-12)
    if area:
        assert f"{area_under_noise(curve):.3f}" == area


@pytest.mark.parametrize(("name", "effective"), [("MulT", "-0.320"), ("GradBlend", "0.362"), ("LF", "0.000")])
def test_effective_robustness_of_multibench(name, effective):
    value = effective_robustness(MOSI[name], MOSI["LF"])
    curve, fused = MOSI[name], MOSI["LF"]
    assert value == pytest.approx(sum(p - (f + curve[0] - fused[0]) for p, f in zip(curve, fused, strict=True)))
    assert f"{value:.3f}" == effective


@hypothesis.given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(-0.5, 0.5))
def test_effective_robustness_forgets_a_shift(curve, shift):
    fused = np.linspace(0.8, 0.4, len(curve))
    value = effective_robustness(np.array(curve), fused)
    assert effective_robustness(np.array(curve) + shift, fused) == pytest.approx(value, abs=1e-9)
    assert effective_robustness(fused + shift, fused) == pytest.approx(0, abs=1e-9)


def test_curves_that_do_not_go_together_are_refused():
    """Also without the shape checks of the tests, where NumPy would repeat a curve of one level."""
    with pytest.raises(Exception, match=r"must be the same|Type-check"):
        effective_robustness(MOSI["MulT"], MOSI["LF"][:9])
    unchecked = getattr(effective_robustness, "__wrapped__", effective_robustness)
    with pytest.raises(ValueError, match="must be the same"):
        unchecked(MOSI["MulT"], MOSI["LF"][:1])
    with pytest.raises(Undefined, match="two levels"):
        area_under_noise(np.array([0.8]))


def test_scaling_among_methods():
    areas = {name: area_under_noise(MOSI[name]) for name in ("MulT", "LF", "GradBlend")}
    scaled = among_methods(areas)
    assert scaled["MulT"] == 1
    assert scaled["LF"] == 0
    assert scaled["GradBlend"] == pytest.approx((areas["GradBlend"] - areas["LF"]) / (areas["MulT"] - areas["LF"]))
    # Who else is there decides.
    assert among_methods(areas | {"oracle": 0.75})["MulT"] < 0.2
    turned = among_methods(areas, lower_is_better=True)
    assert all(turned[name] == pytest.approx(1 - scaled[name]) for name in areas)
    for methods in ({}, {"one": 0.5}, {"one": 0.5, "other": 0.5}):
        with pytest.raises(Undefined, match="nothing to scale by"):
            among_methods(methods)


def test_subsets_of_modalities_by_their_relation_to_training():
    performance = {
        ("audio", "video"): 0.7, ("audio",): 0.5, ("video",): 0.4, ("audio", "video", "text"): 0.6, ("text",): 0.1,
        ("video", "text"): 0.2,
    }  # fmt: skip
    found = over_subsets(performance, {"video", "audio"})
    assert found == {
        "missing": OverSubsets((0.5 + 0.4) / 2, 0.4, ("video",), 2),
        "added": OverSubsets(0.6, 0.6, ("audio", "video", "text"), 1),
        "transfer": OverSubsets((0.1 + 0.2) / 2, 0.1, ("text",), 2),
    }
    assert over_subsets({("audio", "video"): 0.7}, ("video", "audio")) == {}
