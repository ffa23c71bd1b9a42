"""Groups of clips: what the records know of them, and what a model makes of each."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.data.pipeline import AudioSampling, Data
from avjax.diagnostics.clips import ClipReader, Clips
from avjax.diagnostics.consistency.groups import demographic_parity_difference, equalised_odds_difference
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.groups import Fairness, attributes, gaps, groups, partitions
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.tiers import SMOKE
from avjax.streams import Stream
from tests.fixtures.records import write_records

MODALITIES = ("audio", "video")


def study_of(label: np.ndarray, predicted: np.ndarray, **known: np.ndarray) -> Study:
    """A model whose answer is in the clip: half of its confidence is on the class that it names."""
    rows, classes = len(label), int(max(label.max(), predicted.max())) + 1
    sound = Stream(predicted[:, None].astype(np.float32), np.ones((rows, 1), bool), np.zeros(rows), 1.0)
    clips = Clips({"audio": sound, "video": sound}, label, tuple(f"clip {row}" for row in range(rows)), np.arange(rows))

    def told(clips: Clips) -> np.ndarray:
        return 2.0 * np.eye(classes)[clips.streams["audio"].values[:, 0].astype(int)]

    probe = FunctionProbe(MODALITIES, "label", tuple(f"class {k}" for k in range(classes)), 64, told)
    return Study(probe, clips, SMOKE, resamples=50, attributes=known)


def lines_of(found: Found, id: str, group: str | None = None) -> list:
    return [line for line in found.lines if line.id == f"stress/{id}" and group in (None, line.group)]


def value(found: Found, id: str, group: str | None = None) -> float:
    (line,) = lines_of(found, id, group)
    return line.value


def test_two_groups_of_unequal_accuracy():
    """KA: accuracy 0.9 and 0.6 -> gap 0.3, worst 0.6, whatever else is known of the clips."""
    device = np.repeat(["A", "B"], 50)
    right = np.concatenate([np.arange(50) < 45, np.arange(50) < 30])
    label = np.tile([0, 1], 50)
    found = groups(study_of(label, np.where(right, label, 1 - label), device=device, one=np.ones(100)))
    assert value(found, "group_accuracy", "device: A") == pytest.approx(0.9)
    assert value(found, "group_accuracy", "device: B") == pytest.approx(0.6)
    assert value(found, "worst_group_accuracy", "device") == pytest.approx(0.6)
    (line,) = lines_of(found, "group_gap", "device")
    assert line.value == pytest.approx(0.3)
    # Of groups of 50 chance makes about 0.07 of it: two standard errors of a difference, at most a quarter of 0.3.
    assert 0.02 < line.null_baseline < 0.15
    assert line.ci_lo < 0.3 < line.ci_hi
    # Class by class it is all but as good; what is the same of all clips is no attribute.
    assert value(found, "group_gap", "class") == pytest.approx(0.02)
    assert not [line for line in found.lines if line.group and "one" in line.group]


def test_one_confusion_for_every_group():
    """KA: the same confusion matrix in every group -> equalised odds 0; of groups of one mix of labels, parity too."""
    confusion = np.array([[40, 0, 0], [10, 35, 1], [1, 5, 31]])
    pairs = np.array([(true, told) for (true, told), n in np.ndenumerate(confusion) for _ in range(n)])
    label, predicted = np.concatenate([pairs, pairs]).T
    found = groups(study_of(label, predicted, sex=np.repeat(["f", "m"], len(pairs))))
    assert value(found, "equalised_odds_difference", "sex") == pytest.approx(0, abs=1e-12)
    assert value(found, "demographic_parity_difference", "sex") == pytest.approx(0, abs=1e-12)
    assert value(found, "group_gap", "sex") == pytest.approx(0, abs=1e-12)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(2, 4))
def test_all_classes_at_once_are_class_by_class(seed, count, classes):
    rng = np.random.default_rng(seed)
    label, code = rng.integers(0, classes, 400), rng.integers(0, count, 400)
    predicted = np.where(rng.random(400) < 0.6, label, rng.integers(0, classes, 400))
    large = tuple(np.flatnonzero(np.bincount(code, minlength=count) >= 30).tolist())
    fair, everyone = Fairness(predicted, label, classes, code, large), np.arange(400)
    parity = [demographic_parity_difference(predicted == k, code) for k in range(classes)]
    assert fair.parity(code, everyone) == pytest.approx(max(parity))
    odds = []
    for k in range(classes):
        try:
            odds.append(equalised_odds_difference(predicted == k, label == k, code))
        except Undefined:
            continue
    if odds:
        assert fair.odds(code, everyone) == pytest.approx(max(odds))
    else:
        with pytest.raises(Undefined, match="two groups"):
            fair.odds(code, everyone)


def test_groups_that_are_too_small_are_counted():
    label = np.arange(80) % 2
    study = study_of(label, label, speaker=np.repeat(["a", "b", "c"], [50, 20, 10]))
    found = groups(study)
    (line,) = lines_of(found, "worst_group_accuracy", "speaker")
    assert line.status == "skipped"
    assert "1 of 3 values of speaker have 30 clips or more" in line.reason
    assert not lines_of(found, "group_accuracy", "speaker: a")
    assert value(found, "worst_group_accuracy", "class") == 1


def test_every_way_of_dividing_counts_once(rng):
    label = np.arange(80) % 2
    level = rng.random(80)
    study = study_of(
        label, label, again=np.where(label > 0, "x", "y"), few=np.arange(80) % 4 / 2, level=level, name=np.arange(80.0)
    )
    found = {one.name: one for one in partitions(study)}
    # What says the same as the class is not told twice, and sources with a clip each are no groups.
    assert list(found) == ["class", "few", "level", "name"]
    assert found["few"].groups == ("0", "0.5", "1", "1.5")
    middle = np.median(level)
    assert found["level"].groups == (f"below {middle:.3g}", f"{middle:.3g} or more")
    np.testing.assert_array_equal(found["level"].code, level >= middle)


def test_gaps_in_what_is_heard_and_in_what_is_withstood():
    device = np.repeat(["A", "B"], 40)
    label = np.tile([0, 1], 40)
    study = study_of(label, label, device=device)
    share = np.where(device == "A", 0.8, 0.3)
    still = np.where(device == "A", np.arange(80) % 4 > 0, np.arange(80) % 2 > 0)
    rows = np.arange(80)
    arrays = {"share/mm_shap": np.stack([share, 1 - share], axis=1), "rows/share/mm_shap": rows}
    for severity in (1, 5):
        arrays |= {f"right/audio/white_noise {severity}": still, f"rows/right/audio/white_noise {severity}": rows}
    found = gaps(study, arrays)
    assert value(found, "group_share_gap", "device") == pytest.approx(0.5)
    # Clean 1 of both; three of four and one of two are left.
    assert value(found, "group_retention_gap", "device") == pytest.approx(0.25)
    few = {name: array[:40] for name, array in arrays.items()}
    (line,) = [line for line in gaps(study, few).lines if line.id == "stress/group_share_gap"]
    assert "of 40 clips no attribute" in line.reason
    assert not gaps(study, {}).lines


def test_what_records_know(tmp_path):
    path = write_records(tmp_path / "records")
    reader = ClipReader(Data(records=str(path), batch=8, audio=AudioSampling(1000)), "test", "label")
    known = attributes(reader, np.arange(10))
    assert set(known["group"]) == {"test"}
    np.testing.assert_array_equal(known["level"], np.arange(10) % 2 - 0.5)
    expected = ["audio+video"] * 10
    expected[3], expected[4] = "video", "audio"
    assert known["modalities"].tolist() == expected
    assert "label" not in known
    # Of another head the classes are attributes.
    assert attributes(dataclasses.replace(reader, head="other"), np.arange(2))["label"].tolist() == ["low", "high"]
