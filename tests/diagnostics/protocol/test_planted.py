"""The ten planted models: what the stages say of each is what was planted."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.drift.axes import reliability_following
from avjax.diagnostics.fills import others
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol import explanation
from avjax.diagnostics.protocol.ablation import MARGINAL_DRAWS, ablation, additive
from avjax.diagnostics.protocol.alignment import offsets
from avjax.diagnostics.protocol.faithfulness import Effort, Explanation, erased, faithfulness
from avjax.diagnostics.protocol.removal import Removal
from avjax.diagnostics.protocol.saliency import states
from avjax.diagnostics.protocol.study import Alone, Found, Study
from avjax.streams import Batch
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_of, study_of
from tests.models.planted import CASES, HEAD, MODALITIES, RATE, STEPS, batch_of, corrupted

# Of 400 rows instead of the 4,000 of the bounds in planted.py, a share lies within sqrt(10) times as much.
WIDER = 3.2


def value(found: Found, id: str, **fields) -> float:
    lines = [
        line
        for line in found.lines
        if line.id == id and all(getattr(line, name) == own for name, own in fields.items())
    ]
    assert len(lines) == 1, (id, fields, [line.plain() for line in lines])
    return lines[0].value


def within(name: str, key: str, found: float) -> None:
    low, high = CASES[name].expected[key]
    middle, half = (low + high) / 2, (high - low) / 2
    if half > 1e-3 and (low, high) not in ((0.98, 1), (0.9, 1), (0.95, 1), (0.999, 1)):
        half *= WIDER
    assert middle - half - 1e-6 <= found <= middle + half + 1e-6, (name, key, found, (low, high))


OF_ABLATION = {
    "shape.audio": ("contribution/shape", {"group": "audio", "fill": "drop"}),
    "shape.video": ("contribution/shape", {"group": "video", "fill": "drop"}),
    "shape.cooperation": ("contribution/cooperation", {"fill": "drop"}),
    "confusion.audio": ("consistency/modality_confusion", {"group": "audio", "fill": "drop"}),
    "inter_shap": ("contribution/intershap", {"estimator": "logit, 3 draws"}),
    "accuracy": ("stress/accuracy", {}),
    "accuracy.audio": ("contribution/ablation_accuracy", {"group": "audio", "fill": "drop"}),
    "accuracy.video": ("contribution/ablation_accuracy", {"group": "video", "fill": "drop"}),
    "ece": ("consistency/ece", {}),
}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if set(case.expected) & set(OF_ABLATION)])
def test_ablation(name, rng):
    # The means of interactions are over clips: of fewer, chance leaves more of each modality alone.
    found = ablation(study_of(name, rng, 2000))
    for key in set(CASES[name].expected) & set(OF_ABLATION):
        id, fields = OF_ABLATION[key]
        within(name, key, value(found, id, **fields))


def test_interactions_of_the_probability(rng):
    """An exclusive or is nothing but interaction; what adds up in logits has one of probabilities, as they say."""
    told = {"estimator": "probability, 3 draws", "target": "predicted"}
    assert value(ablation(study_of("T3 exclusive or", rng, 2000)), "contribution/intershap", **told) > 0.9
    study = study_of("T2 additive", rng)
    cues = {m: study.clips.streams[m].values[..., 0].sum(axis=1).astype(np.float64) for m in MODALITIES}

    def probability(heard: np.ndarray, seen: np.ndarray) -> np.ndarray:
        side = np.sign(cues["audio"] + cues["video"])
        return 1 / (1 + np.exp(-4 * side * (heard + seen)))

    other = [
        {m: cues[m][others(study.clips, m, seed=study.seed + draw)] for m in MODALITIES}
        for draw in range(MARGINAL_DRAWS)
    ]
    alone = [probability(cues["audio"], one["video"]) + probability(one["audio"], cues["video"]) for one in other]
    neither = [probability(one["audio"], one["video"]) for one in other]
    surplus = probability(*cues.values()) - np.mean(alone, axis=0) + np.mean(neither, axis=0)
    found = value(ablation(study), "contribution/interaction", **told)
    assert found == pytest.approx(surplus.mean(), abs=1e-6)
    assert abs(found) > 0.01


def test_what_adds_up_has_no_cooperation(rng):
    """T2: C is 0, exactly where numbers come as often with either sign and never equally large."""
    heard, seen = np.array([-7, -5, -3, -1, 1, 3, 5, 7]) / 8, np.array([-6, -4, -2, 2, 4, 6]) / 8
    cues = dict(zip(MODALITIES, (x.ravel() for x in np.meshgrid(heard, seen)), strict=True))
    clips = clips_of(batch_of(rng, cues, sum(cues.values()) > 0))
    found = ablation(Study(probe_of("T2 additive"), clips, TIER, resamples=2))
    assert value(found, "contribution/cooperation", fill="drop") == pytest.approx(0, abs=1e-9)


def test_a_constant_answer_has_no_kappa(rng):
    lines = [line for line in ablation(study_of("T9 constant", rng, 60)).lines if line.id == "consistency/kappa"]
    assert len(lines) == len(MODALITIES)
    assert all((line.value, line.status) == (None, "undefined") and line.reason for line in lines)


@pytest.mark.slow
def test_shuffled_labels_and_the_maps_of_predictions(rng):
    """T8: of two classes, what the prediction's probability loses the other's gains. So p_y gains as often as it loses
    as the cells go that the prediction's map names; and the label's own map is the prediction's, with its sign."""
    study = study_of("T8 shuffled labels", rng, 128)
    part, every = study.part(None), np.ones(len(study.raw_players), bool)
    effort = Effort(fractions=(0.0, 0.25, 0.5, 1.0), orders=1, sets=1, disturbances=1)
    values = explanation.sampled_values(study, part, study.raw_players, study.means)
    side = np.where(part.clean.right, 1, -1)
    np.testing.assert_allclose(values["label"].values, side[:, None] * values["predicted"].values, atol=1e-4)
    ranked = values["predicted"].values
    one, removal = Explanation("of the prediction", ranked, ranked), Removal(study, part)
    gaps = {}
    for name, target in (("predicted", part.clean.predicted), ("label", part.clips.label)):
        clips = erased(study, removal.towards(target), one, effort, every)
        # Curves are shares of what the class has at first; of classes that it gives little they would be large.
        first = part.clean.probability[np.arange(len(part.rows)), target]
        gaps[name] = first * [own.numbers["deletion_gap"] for own in clips]
    np.testing.assert_allclose(gaps["label"], side * gaps["predicted"], atol=1e-4)
    within("T8 shuffled labels", "faithfulness.gap.label", gaps["label"].mean())
    assert gaps["predicted"].mean() > 0.05


def test_the_label_has_lines_of_its_own(rng):
    """Of two classes the label's share is the prediction's, and its net effect has the sign of being right."""
    study = study_of("T8 shuffled labels", rng, 24)
    lines = [*explanation.shapley_values(study).lines, *explanation.by_gradients(study).lines]
    lines += faithfulness(study).lines
    for modality in MODALITIES:
        for id in ("mm_shap", "gradient_x_input"):
            one, other = (
                value(Found(lines), f"contribution/{id}", group=modality, target=target)
                for target in ("predicted", "label")
            )
            assert one == pytest.approx(other, abs=1e-5), id
    gaps = [line for line in lines if line.id == "faithfulness/deletion_gap" and line.target == "label"]
    assert [(line.fill, line.group, line.n) for line in gaps] == [("mean", None, 4)] * 2


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "mm_shap.audio" in case.expected])
def test_shapley_shares(name, rng):
    found = explanation.shapley_values(study_of(name, rng))
    within(name, "mm_shap.audio", value(found, "contribution/mm_shap", group="audio", fill="drop", target="predicted"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "emap.gap" in case.expected])
def test_additive(name, rng):
    study = study_of(name, rng, 200)
    if name == "T3 exclusive or":
        # Nothing adds up, so every clip gets one answer, right as often as that label comes: here for half.
        cues = dict(zip(MODALITIES, np.tile([[1.0, 1, -1, -1], [1, -1, 1, -1]], 50), strict=True))
        study = dataclasses.replace(study, clips=clips_of(batch_of(rng, cues, cues["audio"] * cues["video"] > 0)))
    low, high = CASES[name].expected["emap.gap"]
    assert low <= value(additive(study), "contribution/emap_gap") <= high


def test_additive_of_numbers_as_they_come(rng):
    """What adds up of a product is either number times the other's mean."""
    heard, seen = rng.normal(size=(2, 60)) + 0.2
    clips = clips_of(batch_of(rng, {"audio": heard, "video": seen}, heard * seen > 0))
    study = Study(probe_of("T3 exclusive or"), clips, TIER, resamples=2)
    adds = heard * seen.mean() + seen * heard.mean() - heard.mean() * seen.mean()
    right, near = (adds > 0) == clips.label, np.abs(adds) < 1e-5
    gap = value(additive(study), "contribution/emap_gap")
    assert gap == pytest.approx(1 - right.mean(), abs=near.mean() + 1e-9)
    assert near.mean() < 0.05


def test_an_attention_decoy_is_told_from_what_it_hides(rng):
    name = "T5 attention decoy"
    study = study_of(name, rng, 64)
    found = explanation.attention(study)
    within(name, "mass.video", value(found, "contribution/attention_share", group="video", estimator="mean of heads"))
    within(
        name, "output_share.audio", value(found, "contribution/output_share", group="audio", estimator="mean of heads")
    )
    within(name, "chefer_share.audio", value(found, "contribution/chefer_share", group="audio"))
    arrays = {**found.arrays, **explanation.shapley_values(study).arrays}
    assert arrays["share/attention_share"][:, 0].mean() < 0.05
    assert arrays["share/output_share"][:, 0].mean() > 0.99
    assert arrays["share/mm_shap"][:, 0].mean() > 0.9
    # Every clip's attention is the same: it cannot rank clips, and the agreement says so.
    lines = explanation.agreement(study, arrays).lines
    flagged = [line for line in lines if "attention_share" in line.estimator]
    assert flagged
    assert all(line.value is None or line.value < 0.3 for line in flagged)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", ["T6 leaves what is corrupted", "T7 captured by noise"])
def test_reliability_following(name, modality, rng):
    probe, batch = probe_of(name), CASES[name].batch(rng, 128)
    column = MODALITIES.index(modality)

    def mass(severity: float) -> np.ndarray:
        clips = clips_of(corrupted(batch, modality, severity, np.random.default_rng(5)))
        site = probe.attention(clips, ("mass",))["decision"]
        return site["mass"][0, :, 0, 0, column].astype(np.float64)

    # A hard gate has left the modality altogether at the first severities of a coarser scale.
    index = reliability_following(mass(0), np.stack([mass(0.15 * severity) for severity in range(1, 6)]))
    assert index == pytest.approx(CASES[name].expected[f"rfi.{modality}"][0])


def test_what_ignores_the_pictures_does_not_drift_with_them(rng):
    probe, batch = probe_of("T1 audio only"), CASES["T1 audio only"].batch(rng, 64)
    clips = clips_of(batch)
    target = probe.logits(clips).argmax(axis=1)
    clean, _ = states(probe, clips, target)
    noisy, _ = states(probe, clips_of(corrupted(batch, "video", 3.0, rng)), target)
    np.testing.assert_allclose(clean.mass("video"), 0, atol=1e-12)
    np.testing.assert_allclose(noisy.pi, clean.pi, atol=1e-7)


def test_what_a_model_of_one_modality_alone_would_know(rng):
    """An exclusive or says nothing of either alone; a model that did would leave a gap of half."""
    study = study_of("T3 exclusive or", rng, 100)
    study = dataclasses.replace(study, alone={"audio": Alone(np.ones(100, bool))})
    found = ablation(study)
    joint = value(found, "contribution/ablation_accuracy", group="audio", fill="drop")
    assert value(found, "contribution/utilisation_gap", group="audio", fill="drop") == pytest.approx(1 - joint)
    (line,) = [x for x in found.lines if x.id == "contribution/utilisation_gap" and x.group == "video"]
    assert "--alone video=RUN" in line.reason


def test_what_a_line_reads_off_the_tokens_of_both_models(rng):
    """Of the label, an exclusive or, a line through either's own cue tells half of the clips."""
    study = study_of("T3 exclusive or", rng, 400)
    told = np.eye(2)[study.clips.label]
    study = dataclasses.replace(study, alone={"audio": Alone(np.ones(400, bool), told), "video": Alone(told[:, 0] > 0)})
    audio, video = [line for line in ablation(study).lines if line.id == "contribution/probe_gap"]
    assert audio.value == pytest.approx(0.5, abs=0.1)
    assert (video.status, video.reason) == ("skipped", "a model has no tokens of video to probe")


def test_a_modality_that_no_clip_has_is_told_and_stops_nothing(rng):
    study = study_of("T2 additive", rng, 20)
    study = dataclasses.replace(
        study, clips=study.clips.without("video"), tier=dataclasses.replace(study.tier, fills=("drop", "mean"))
    )
    found = ablation(study)
    assert value(found, "contribution/necessity", group="video", fill="drop") == 0
    (line,) = [line for line in found.lines if line.status == "skipped" and line.id == "contribution/ablation_accuracy"]
    assert "no clip has video" in line.reason
    assert explanation.shapley_values(study).lines


def test_synchrony_is_lost_with_the_offset(rng):
    """T10: right in sync, always wrong half a clip away, and in between as the arithmetic of steps has it."""
    case = CASES["T10 synchrony"]
    batch = case.batch(rng, 64)
    heard, seen = (batch.streams[m].values[..., 0].argmax(axis=1) for m in MODALITIES)
    whole = clips_of(batch)
    # A number a step is a waveform of that rate.
    sound = whole.streams["audio"].replace(values=batch.streams["audio"].values[..., 0])
    clips = whole.replace({"audio": sound})

    def told(clips: Clips) -> np.ndarray:
        values = clips.streams["audio"].values
        audio = clips.streams["audio"].replace(values=np.stack([values, np.zeros_like(values)], axis=-1))
        streams = jax.tree.map(jnp.asarray, {**clips.streams, "audio": audio})
        return np.asarray(case.model(Batch(streams, {}, None, None)).logits[HEAD])

    def read(index: np.ndarray, late: float) -> Clips:
        """What comes before the clip is its end, as on the circle of the task."""
        own = clips.take(index)
        rolled = np.roll(own.streams["audio"].values, round(late * RATE), axis=1)
        return own.replace({"audio": own.streams["audio"].replace(values=rolled)})

    probe = FunctionProbe(MODALITIES, HEAD, ("no", "yes"), 64, told)
    steps = (1, 2, 4)
    tier = dataclasses.replace(TIER, offsets=tuple(1000 / RATE * step for step in steps))
    found = offsets(Study(probe, clips, tier, read=read, resamples=20))
    curve = {
        line.condition.severity * RATE / 1000: line.value
        for line in found.lines
        if line.id == "stress/offset_accuracy" and line.fill == "real"
    }
    for late, accuracy in curve.items():
        ahead = (seen - heard - late + STEPS // 2) % STEPS - STEPS // 2
        assert accuracy == pytest.approx(((ahead > 0) == clips.label).mean())
    assert (curve[0], curve[4], curve[-4]) == (case.expected["accuracy"][0], 0, 0)
    assert case.expected["accuracy.offset_half_a_clip"] == (curve[4], curve[-4])
    fall = [np.mean([curve[step], curve[-step]]) for step in (0, *steps)]
    assert fall == sorted(fall, reverse=True)
    # All is lost at the last of three distances that double: a quarter of the area, whatever is lost before.
    assert value(found, "stress/sync_sensitivity", fill="real") >= 0.25
