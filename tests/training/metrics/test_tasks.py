"""Every task by hand: what its function makes of arrays, and what is said of one clip."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.data.record import SCHEMA
from avjax.data.records import Description
from avjax.objectives.classification import Classification
from avjax.objectives.regression import Regression
from avjax.objectives.sequence import SegmentEvents, Transcription
from avjax.training.metrics.said import Saying
from avjax.training.metrics.tasks import TASKS, first_with, higher_is_better, text
from tests.levels import in_part
from tests.models.systems import batch, forward, small

DESCRIPTION = Description(
    "made", SCHEMA, {"label": ["low", "high"], "event": ["bell", "dog"]}, {}, None, None, True, "", {}, {}, {},
    vocabulary={"text": ["", "bin", "blue", "red"], "letters": ["", "a", "b", " "], "affect": ["arousal", "valence"]},
)  # fmt: skip


def values(task, predicted, target, present=None):
    arrays = {name: np.asarray(x) for name, x in predicted.items()}
    found = TASKS[task](arrays, {n: np.asarray(x) for n, x in target.items()}, present or {}, DESCRIPTION, samples=3)
    assert all(np.isfinite([each.value, each.low, each.high]).all() for each in found.values())
    return {name: each.value for name, each in found.items()}


def test_primary_metrics_and_their_directions():
    assert {name for name, task in TASKS.items() if not task.higher_is_better} == {
        "sentiment",
        "transcripts",
        "matching",
    }
    assert higher_is_better("values/one_minus_mae")
    assert not higher_is_better("text/wer_beam")
    assert not higher_is_better("loss/values/ccc")
    names = ["a/audio/ccc", "b/mae", "b/ccc", "a/ccc"]
    assert first_with("ccc", names) == "b/ccc"
    assert first_with("wer", names) == ""


def test_classes_and_labels_by_the_clips_that_have_the_modality():
    scores, target = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), np.eye(2)[[0, 1, 1]]
    heard = {"audio": np.array([True, True, False])}
    found = values("classes", {"label": scores, "label/audio": scores}, {"label": target}, heard)
    assert found["label/accuracy"] == pytest.approx(2 / 3)
    assert found["label/audio/accuracy"] == 1
    assert found["label/uar"] == pytest.approx(0.75)
    assert values("labels", {"label": scores}, {"label": target})["label/map"] == 1
    assert values("classes", {"other": scores}, {"label": target}) == {}


def test_values_and_sentiment():
    y = np.array([[-2.0], [0.0], [1.0], [3.0]])
    assert values("values", {"values": y + 1}, {"values": y})["values/mae"] == 1
    found = values("sentiment", {"values": y + 0.25}, {"values": y})
    assert (found["values/mae"], found["values/acc7"], found["values/acc2_nonzero"]) == (0.25, 1, 1)
    assert next(iter(found)) == "values/mae"


def test_series_over_the_steps_that_count_on_both_sides(rng):
    p, y = rng.normal(size=(2, 5, 6, 2)) + 3
    valid, labelled = rng.random((2, 5, 6)) < 0.7
    # Nothing that does not count is read.
    both = valid & labelled
    p[~both], y[~both] = 1e6, np.nan
    given = {"affect": p, "affect/valid": valid}, {"affect": y, "affect/valid": labelled.astype(np.float32)}
    found = values("series", *given)
    for d, name in enumerate(("arousal", "valence")):
        a, b = p[both][:, d], y[both][:, d]
        ccc = 2 * np.mean((a - a.mean()) * (b - b.mean())) / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
        assert found[f"affect/ccc_{name}"] == pytest.approx(ccc)
        assert found[f"affect/pcc_{name}"] == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert found[f"affect/rmse_{name}"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
        assert found[f"affect/mae_{name}"] == pytest.approx(np.abs(a - b).mean())
    assert found["affect/ccc"] == pytest.approx((found["affect/ccc_arousal"] + found["affect/ccc_valence"]) / 2)
    one = values("series", {"affect": p[..., :1], "affect/valid": both}, {"affect": y[..., 0]})
    assert set(one) == {f"affect/{name}" for name in ("ccc", "pcc", "rmse", "mae")}
    still = values("series", {"affect": np.full((3, 4, 1), 0.3)}, {"affect": rng.normal(size=(3, 4))})
    assert (still["affect/ccc"], still["affect/pcc"]) == (0, 0)
    with pytest.raises(ValueError, match="gives 6 steps of 'affect', and its target has 5"):
        values("series", {"affect": p}, {"affect": y[:, :5]})


def test_segments_with_the_background_as_a_class():
    true = np.array([[0, 0, 2], [1, 2, 2]])
    said = np.array([[0, 1, 2], [1, 2, 0]])
    valid = np.array([[True, True, True], [True, True, False]])
    found = values("segments", {"event": np.eye(3)[said], "event/valid": valid}, {"event": np.eye(3)[true]})
    assert found == {"event/segment_accuracy": 4 / 5}


def test_segments_of_a_class_and_whether_it_is_there():
    """The class counts where the event is, and elsewhere that nothing is."""
    classes, true = np.array([[0.9, 0.1], [0.9, 0.1]]), np.eye(2)[[0, 1]]
    seen = np.array([[0.9, 0.2, 0.8], [0.7, 0.1, 0.4]])[..., None]
    there = np.array([[1, 0, 0], [1, 0, 1]])[..., None]
    given = {"event": classes, "eventness": seen, "eventness/valid": np.ones((2, 3), bool)}
    found = values("segments", given, {"event": true, "eventness": there})
    # First clip: right, right, wrong; second: the wrong class, right, missed.
    assert found == {"event/accuracy": 0.5, "event/segment_accuracy": 0.5}
    # A clip whose class is the background has no event, whatever its segments look like.
    named = dataclasses.replace(DESCRIPTION, classes={"event": ["bell", "background"]})
    given = {"event": np.array([[0.2, 0.8], [0.9, 0.1]]), "eventness": np.full((2, 2, 1), 0.9)}
    target = {"event": np.eye(2)[[1, 0]], "eventness": np.array([[0, 0], [1, 0]])[..., None]}
    found = TASKS["segments"](given, target, {}, named, samples=3)
    assert found["event/segment_accuracy"].value == 3 / 4
    with pytest.raises(ValueError, match="no other says in which segments"):
        values("segments", {"event": classes}, {"event": true})


def test_moments():
    there = np.zeros((4, 8))
    there[0, 2:5] = there[1, 6:] = there[2, 0] = 1
    perfect = values("moments", {"fake": 0.02 + 0.9 * there[..., None]}, {"fake": there[..., None]})
    assert set(perfect.values()) == {1.0}
    assert list(perfect)[:4] == ["fake/auc", "fake/ap_50", "fake/ap_75", "fake/ap_95"]
    # A shift by one: 3 segments overlap by 2/4, 2 by 1/3, 1 by nothing.
    late = np.roll(there, 1, axis=1)
    shifted = values("moments", {"fake": 0.9 * late[..., None]}, {"fake": there[..., None]})
    assert shifted["fake/auc"] == 1
    assert 0 < shifted["fake/ap_50"] < 0.5
    assert shifted["fake/ap_75"] == 0
    # The clip's own score in place of the highest segment's.
    whole = {"fake": 0.9 * there[..., None], "clip": np.eye(2)[[1, 1, 0, 0]]}
    mixed = values("moments", whole, {"fake": there[..., None], "clip": np.eye(2)[[1, 1, 1, 0]]})
    assert mixed["fake/auc"] == pytest.approx(5 / 6)


def test_transcripts_greedy_and_by_beam():
    """Of two tokens with 0.4 and a blank with 0.6, greedy says nothing; most paths say the token."""
    p = np.array([[[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 1]]])
    found = values("transcripts", {"text": p}, {"text": np.array([[1, 0], [2, 3]])})
    assert found["text/wer"] == pytest.approx(1 / 3)
    assert found["text/wer_beam"] == 0
    assert found["text/cer"] == pytest.approx(3 / 11)
    valid = np.array([[False, False], [True, True]])
    silent = values("transcripts", {"text": p, "text/valid": valid}, {"text": np.array([[1, 0], [2, 3]])})
    assert silent["text/wer_beam"] == pytest.approx(1 / 3)
    assert text((1, 3, 2), DESCRIPTION.vocabulary["letters"]) == "a b"
    assert text((3, 1), ()) == "3 1"


def test_matching_by_embeddings():
    identity = np.eye(3)[[0, 0, 1, 2]]
    e = np.array([[1.0, 0, 0], [0.8, 0.2, 0], [0, 1, 0], [0, 0, 2.0]])
    found = values("matching", {"who/audio": e, "who/video": 3 * e}, {"who": identity})
    assert (found["who/eer"], found["who/auc"], found["who/accuracy_1_of_10"], found["who/recall_1"]) == (0, 1, 1, 1)
    alike = values("matching", {"who/audio": np.ones((4, 2)), "who/video": np.ones((4, 2))}, {"who": identity})
    assert (alike["who/eer"], alike["who/auc"], alike["who/recall_1"]) == (0.5, 0.5, 0)
    present = {"audio": np.array([True] * 4), "video": np.zeros(4, bool)}
    assert values("matching", {"who/audio": e, "who/video": e}, {"who": identity}, present) == {}


def test_what_is_said_of_a_clip():
    say = {task: Saying(task, DESCRIPTION, ("arousal",), 2) for task in TASKS}
    words, ranked = say["classes"]({"label": np.array([0.2, 0.8])}, 0.0, 1.0)["label"]
    assert (words, list(ranked)) == ("high 80%, low 20%", ["high", "low"])
    assert say["values"]({"values": np.array([0.5])}, 0.0, 1.0)["values"] == ("arousal 0.5", {"arousal": 0.5})
    series = {"affect": np.array([[1.0, 0], [3, 0], [9, 9]]), "affect/valid": np.array([True, True, False])}
    words, whole = say["series"](series, 2.0, 3.0)["affect"]
    assert words.startswith("arousal 2 on average, from 1 to 3; valence")
    assert (whole["start"], whole["step"], whole["valid"]) == (2.0, 1.0, [True, True, False])
    transcript = {"text": np.array([[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0]])}
    assert say["transcripts"](transcript, 0.0, 1.0)["text"] == ("", {"greedy": "", "beam": "bin"})
    words, whole = say["moments"]({"fake": np.array([[0.1], [0.9], [0.9], [0.1]])}, 1.0, 2.0)["fake"]
    assert words == "1.50–2.50 s"
    assert (whole["moments"][0]["start"], whole["moments"][0]["end"]) == (1.5, 2.5)
    words, _ = say["segments"]({"event": np.eye(2)[[0, 0, 1]]}, 0.0, 3.0)["event"]
    assert words == "bell 0.00–2.00 s, dog 2.00–3.00 s"
    assert not say["labels"].over_time


SYSTEMS = {
    "classes": ("com", Classification()),
    "labels": ("com", Classification("sigmoid")),
    "values": ("jca", Regression()),
    "sentiment": ("jca", Regression("l1", "sentiment")),
    "series": ("hmatn", Regression(task="series")),
    "segments": ("cmran", SegmentEvents()),
    "moments": ("klassify", SegmentEvents(head="fake", task="moments")),
    "transcripts": ("dcm", Transcription(ctc=0.3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", in_part(tuple(SYSTEMS), one_of=2))
def test_from_a_model_to_metrics_and_words(task, rng):
    """A model that learned nothing: loss and predictions of one batch, with the shapes that the task wants."""
    name, objective = SYSTEMS[task]
    assert objective.task == task
    config, _ = small(name)
    made = batch(config, rng, 4)
    head, count = next(iter(config.classes.items()))
    output = forward(name)(made)
    predicted = {
        n: np.asarray(x, np.float32 if x.dtype != bool else bool) for n, x in objective.predictions(output).items()
    }
    steps = next((x.shape[1] for x in predicted.values() if x.ndim == 3), 0)
    target = {
        "values": rng.normal(size=(4, count)),
        "sentiment": rng.normal(size=(4, count)),
        "series": rng.normal(size=(4, steps, count)),
        "transcripts": rng.integers(1, count, (4, 2)),
    }.get(task, made.target[head])
    targets = {head: np.asarray(target, np.int32 if task == "transcripts" else np.float32)}
    if task in ("segments", "moments"):
        targets["eventness"] = (rng.random((4, steps, 1)) < 0.5).astype(np.float32)
    given = made.replace(target=jax.tree.map(jnp.asarray, targets), weight=jnp.ones(4))
    if task == "transcripts":
        output = forward(name)(given)
    loss, _ = objective(output, given)
    assert np.isfinite(loss)
    found = TASKS[task](predicted, targets, {m: np.ones(4, bool) for m in made.streams}, DESCRIPTION, samples=3)
    assert first_with(TASKS[task].primary, found)
    assert all(np.isfinite([each.value, each.low, each.high]).all() for each in found.values())
    one = {n: x[0] for n, x in predicted.items()}
    said = Saying(task, DESCRIPTION)(one, 0.0, 2.0)
    assert set(said) == {n for n in one if not n.endswith("/valid")}
