"""Maps and masks by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from avjax.diagnostics.faithfulness.localisation import (
    by_chance,
    centre_prior,
    consensus_iou,
    harmonic,
    mean_over_classes,
    overlap,
    pointing_game,
    relevance_mass,
    relevance_rank,
    segment_f1,
    success_area,
    success_areas,
    success_rate,
    top_iou_with,
    unit_range,
)
from avjax.diagnostics.measured import Undefined


def test_a_mask_of_the_top_cells(rng):
    """KA: IoU 1, and rank accuracy with it."""
    maps = rng.random((6, 7, 7))
    inside = maps >= np.quantile(maps, 0.8, axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(top_iou_with(maps, inside), np.ones(6))
    np.testing.assert_array_equal(relevance_rank(maps, inside), np.ones(6))
    np.testing.assert_array_equal(top_iou_with(-maps, inside), np.zeros(6))


def test_pointing():
    maps = np.zeros((3, 5, 5))
    maps[0, 2, 2] = maps[1, 0, 0] = maps[2, 2, 2] = maps[2, 4, 4] = 1
    inside = np.zeros((3, 5, 5), bool)
    inside[:, 2, 2] = True
    np.testing.assert_array_equal(pointing_game(maps, inside), [1, 0, 0.5])
    np.testing.assert_array_equal(pointing_game(maps, inside, tolerance=3.0), [1, 1, 1])
    assert mean_over_classes(np.array([1.0, 0.0, 1.0]), np.array([4, 4, 7])) == 0.75
    with pytest.raises(Undefined, match="nothing to be found"):
        pointing_game(maps, np.zeros((3, 5, 5), bool))


def test_consensus_iou():
    maps = np.array([[0.0, 0.6, 0.7, 1.0]])
    # Above .5: cells 1, 2, 3; agreement 1 and .5 there and .5 outside: 1.5 / (2 + 1).
    assert consensus_iou(maps, np.array([[0.5, 1.0, 0.5, 0.0]]))[0] == 0.5
    assert consensus_iou(maps, np.array([[False, True, True, True]]))[0] == 1
    np.testing.assert_allclose(unit_range(2 * maps + 3), maps)
    with pytest.raises(Undefined, match="constant"):
        unit_range(np.ones((1, 4)))
    assert success_rate(np.array([0.5, 0.4])) == 0.5
    assert success_area(np.ones(3)) == pytest.approx(1)
    assert success_area(np.zeros(3)) == pytest.approx(0.025)
    # All of the thresholds 0, 0.05 .. 0.5 are passed, and half of the way to the next.
    np.testing.assert_allclose(success_areas(np.array([0.5, 0.54, 1.0])), [0.525, 0.525, 1])
    for measure in (success_rate, success_area):
        with pytest.raises(Undefined, match="no clips"):
            measure(np.zeros(0))


def test_chance_is_the_mean_over_every_order_of_the_cells():
    marked = np.array([[True, True, False, False, False], [True, True, True, True, False]])
    inside = np.array([[True, False, True, True, False], [False, True, True, False, False]])
    expected = {"overlap": [], "f1": [], "success": []}
    for shown, there in zip(marked, inside, strict=True):
        drawn = np.zeros((0, 5), bool)
        for chosen in itertools.combinations(range(5), int(shown.sum())):
            drawn = np.concatenate([drawn, np.isin(np.arange(5), chosen)[None]])
        truth = np.broadcast_to(there, drawn.shape)
        overlaps = consensus_iou(drawn.astype(float), truth)
        expected["overlap"].append(overlaps.mean())
        expected["success"].append(success_rate(overlaps))
        expected["f1"].append(segment_f1(drawn, truth).mean())
    assert by_chance(marked, inside, overlap) == pytest.approx(np.mean(expected["overlap"]))
    assert by_chance(marked, inside, harmonic) == pytest.approx(np.mean(expected["f1"]))
    success = by_chance(marked, inside, lambda *cells: (overlap(*cells) >= 0.5).astype(float))
    assert success == pytest.approx(np.mean(expected["success"]))


def test_chance_on_a_large_picture(rng):
    """F1 is linear in the cells that are shared, whose mean is |A| |G| / N."""
    marked, inside = rng.random((1, 200, 200)) < 0.3, rng.random((1, 200, 200)) < 0.1
    own, there = int(marked.sum()), int(inside.sum())
    assert by_chance(marked, inside, harmonic) == pytest.approx(2 * own * there / 200**2 / (own + there))
    # Of so many cells the overlap hardly varies, and is that of the mean.
    shared = np.array([own * there / 200**2])
    assert by_chance(marked, inside, overlap) == pytest.approx(overlap(shared, own, there)[0], rel=1e-3)


def test_mass_inside_an_interval():
    saliency, inside = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[False, True, True, False]])
    assert relevance_mass(saliency, inside)[0] == 0.5
    with pytest.raises(Undefined, match="no mass"):
        relevance_mass(0 * saliency, inside)


def test_segments_and_the_centre():
    predicted = np.array([[True, True, False], [False, False, False], [True, False, False]])
    true = np.array([[True, False, True], [False, False, False], [False, True, False]])
    np.testing.assert_array_equal(segment_f1(predicted, true), [0.5, 1, 0])
    prior = centre_prior(7, 9)
    assert prior.sum() == pytest.approx(1)
    assert np.unravel_index(prior.argmax(), prior.shape) == (3, 4)
    np.testing.assert_allclose(prior, prior[::-1, ::-1])
