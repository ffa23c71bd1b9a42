"""Two diagnoses: differences with a known answer, pairing of clips, and what cannot be compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.diagnostics.consistency.calibration import expected_calibration_error
from avjax.diagnostics.diagnosis import Diagnosis, VersusError, compare
from tests.diagnostics.diagnosis.example import example


def made(right: np.ndarray, index: np.ndarray | None = None, **arrays: np.ndarray) -> Diagnosis:
    """Of clips that are each a video of its own."""
    index = np.arange(len(right)) if index is None else index
    source = np.array([f"video-{k}" for k in index])
    common = {"clips/index": index, "clips/source": source, "right/clean": right}
    return dataclasses.replace(example(0), measured=(), arrays=common | arrays, clips=())


def test_a_shift_in_every_clip_has_no_spread(rng: np.random.Generator) -> None:
    share = rng.uniform(0, 0.5, (60, 2))
    one = made(np.ones(60, bool), **{"share/mm_shap": share + 0.25})
    other = made(np.ones(60, bool), **{"share/mm_shap": share})
    shares = [row for row in compare(one, other, samples=50).paired if row.id == "contribution/mm_shap"]
    assert [row.name for row in shares] == ["audio", "video"]
    for row in shares:
        assert row.difference == pytest.approx(0.25, abs=1e-12)
        # Paired: what differs between clips cancels.
        assert row.low == pytest.approx(0.25, abs=1e-12)
        assert row.high == pytest.approx(0.25, abs=1e-12)
        assert row.better is None


def test_accuracy_against_the_definition_of_its_interval(rng: np.random.Generator) -> None:
    first, second = rng.uniform(size=(2, 400)) < [[0.9], [0.6]]
    row = compare(made(first), made(second)).paired[0]
    assert (row.id, row.name, row.n) == ("stress/accuracy", "clean", 400)
    difference = first.astype(float) - second
    assert row.difference == pytest.approx(difference.mean())
    # The normal approximation of a mean of independent differences.
    half = 1.96 * difference.std() / np.sqrt(400)
    assert row.high - row.low == pytest.approx(2 * half, rel=0.15)
    assert row.better
    assert compare(made(second), made(first)).paired[0].better is False


def test_a_model_does_not_differ_from_itself() -> None:
    one = example(1)
    found = compare(one, one, samples=20)
    assert all(row.difference == 0 and row.low == row.high == 0 for row in found.paired)
    errors = [row for row in found.lines if row.id == "stress/mean_corruption_error"]
    assert [row.difference for row in errors] == [pytest.approx(0.0, abs=1e-12)]
    assert {row.id for row in found.paired} == {
        "stress/accuracy", "contribution/ablation_accuracy", "consistency/ece", "contribution/mm_shap",
        "contribution/attention_share", "drift/cmsd_severity",
    }  # fmt: skip


def test_clips_are_paired_by_number_and_source(rng: np.random.Generator) -> None:
    right = rng.uniform(size=50) < 0.5
    order = rng.permutation(50)[:30]
    found = compare(made(right), made(right[order], order), samples=20)
    assert found.clips == 30
    assert found.paired[0].difference == 0
    assert found.paired[0].low == found.paired[0].high == 0
    assert found.paired[0].one == pytest.approx(right[order].mean())


def test_severities_are_one_and_arrays_of_some_clips_are_paired_by_their_rows(rng: np.random.Generator) -> None:
    right = rng.uniform(size=(2, 40)) < 0.6
    pair, means = [], []
    both = np.arange(10, 30)
    for k, rows in enumerate((np.arange(30), np.arange(10, 40))):
        found = {}
        for severity in (1, 2):
            wrong = right[k] & (np.arange(40) % (severity + 1 + k) > 0)
            found |= {f"right/rain {severity}": wrong[rows], f"rows/right/rain {severity}": rows}
            means.append(wrong[both].mean())
        pair.append(made(right[k], **found))
    row = next(row for row in compare(*pair, samples=20).paired if row.name == "rain")
    assert (row.id, row.n) == ("stress/accuracy", 20)
    assert (row.one, row.other) == pytest.approx((np.mean(means[:2]), np.mean(means[2:])))


def test_calibration_is_that_of_the_definition(rng: np.random.Generator) -> None:
    right, confidence = rng.uniform(size=(2, 80)) < 0.7, rng.uniform(0.2, 1, (2, 80))
    pair = [made(right[k], **{"confidence/clean": confidence[k]}) for k in range(2)]
    row = next(row for row in compare(*pair, samples=20).paired if row.id == "consistency/ece")
    assert row.one == pytest.approx(expected_calibration_error(confidence[0], right[0]))
    assert row.other == pytest.approx(expected_calibration_error(confidence[1], right[1]))
    assert row.direction == "lower"


def test_mean_corruption_error_by_hand() -> None:
    one, other = example(2), example(2, shift=-0.1)
    row = next(row for row in compare(one, other, samples=5).lines if row.id == "stress/mean_corruption_error")
    ratios = []
    for name in dict.fromkeys(line.condition.corruption for line in one.find("stress/accuracy") if line.condition):
        sums = [sum(1 - line.value for line in diagnosis.find("stress/accuracy", corruption=name))
                for diagnosis in (one, other)]  # fmt: skip
        ratios.append(sums[0] / sums[1])
    assert row.one == pytest.approx(np.mean(ratios))
    assert row.other == 1


def test_lines_are_matched_by_all_that_sets_them_apart() -> None:
    one, other = example(3), example(4)
    found = compare(one, other, samples=5).lines
    clean = [row for row in found if row.id == "stress/accuracy" and not row.name]
    assert len(clean) == 1
    assert clean[0].one == one.value("stress/accuracy", condition=None)
    newer = tuple(dataclasses.replace(line, version=line.version + 1) for line in other.measured)
    kept = compare(one, dataclasses.replace(other, measured=newer), samples=5).lines
    assert {row.id for row in kept} <= {"stress/mean_corruption_error"}


def test_what_cannot_be_compared_is_told() -> None:
    one = example(5)
    data = {**one.about["data"], "fingerprint": "another"}
    with pytest.raises(VersusError, match="other records"):
        compare(one, dataclasses.replace(one, about={**one.about, "data": data}))
    model = {**one.about["model"], "modalities": ["audio"]}
    with pytest.raises(VersusError, match="modalities"):
        compare(one, dataclasses.replace(one, about={**one.about, "model": model}))
    with pytest.raises(VersusError, match="no array"):
        compare(one, dataclasses.replace(one, arrays={}))
    with pytest.raises(VersusError, match="fewer than two"):
        compare(made(np.ones(3, bool)), made(np.ones(3, bool), np.arange(10, 13)))
