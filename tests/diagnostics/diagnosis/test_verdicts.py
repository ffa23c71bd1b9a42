"""Lights by value and interval, the worst line, what is not known, and remedies that can be run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from avjax.diagnostics.definitions import DEFINITIONS, facts
from avjax.diagnostics.diagnosis import Diagnosis, headline, verdicts
from avjax.diagnostics.diagnosis.rules import RULES, Rule
from avjax.diagnostics.diagnosis.verdicts import counts, verdict
from avjax.diagnostics.measured import Measured
from avjax.experiment import Experiment, load
from tests.diagnostics.diagnosis.example import example

WORDS = ("fine", "fair", "poor")
HIGHER = Rule("title", "stress/retention", 0.8, 0.5, WORDS)
LOWER = Rule("title", "consistency/ece", 0.05, 0.1, WORDS, lower=True)


def of(id: str, *values: float | tuple[float, float, float], **fields: Any) -> Diagnosis:
    lines = []
    for value in values:
        value, low, high = value if isinstance(value, tuple) else (value, None, None)
        lines.append(
            Measured(
                **{**facts(id), "estimator": "made", "n": 9, "value": value, "ci_lo": low, "ci_hi": high, **fields}
            )
        )
    return dataclasses.replace(example(0), measured=tuple(lines))


@pytest.mark.parametrize(
    ("rule", "value", "low", "high", "light"),
    [
        (HIGHER, 0.9, None, None, "good"),
        (HIGHER, 0.8, 0.5, 1.0, "good"),
        (HIGHER, 0.9, 0.4, 1.0, "warn"),
        (HIGHER, 0.7, 0.65, 0.75, "warn"),
        (HIGHER, 0.5, None, None, "warn"),
        (HIGHER, 0.49, 0.4, 0.9, "bad"),
        (LOWER, 0.05, 0.01, 0.1, "good"),
        (LOWER, 0.04, 0.01, 0.11, "warn"),
        (LOWER, 0.08, None, None, "warn"),
        (LOWER, 0.11, 0.01, 0.2, "bad"),
    ],
)
def test_lights(rule: Rule, value: float, low: float | None, high: float | None, light: str) -> None:
    found = verdict(of(rule.id, (value, low, high)), rule)
    assert found.light == light
    assert found.value == value
    assert found.said.startswith({"good": "fine", "warn": ("fair", "fine"), "bad": "poor"}[light])


def test_the_worst_line_is_judged() -> None:
    assert verdict(of("stress/retention", 0.9, 0.6, 0.7), HIGHER).value == 0.6
    assert verdict(of("consistency/ece", 0.02, 0.2, 0.1), LOWER).value == 0.2
    picked = dataclasses.replace(HIGHER, which=lambda line: line.value > 0.65)
    assert verdict(of("stress/retention", 0.9, 0.6, 0.7), picked).value == 0.7


def test_what_is_taken_off_first() -> None:
    both = of("stress/accuracy", (0.6, 0.5, 0.7)).measured + of("contribution/majority_accuracy", 0.2).measured
    rule = dataclasses.replace(
        HIGHER, id="stress/accuracy", less="contribution/majority_accuracy", good=0.35, warn=0.25
    )
    found = verdict(dataclasses.replace(example(0), measured=both), rule)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.3, 0.5))
    assert found.light == "good"
    assert verdict(of("stress/accuracy", 0.6), rule).light == "unknown"


def test_what_chance_makes_of_a_line_is_taken_off() -> None:
    """A gap of many small groups is large by chance; that of a few large ones is judged, though it is the smaller."""
    lines = of("stress/group_gap", (0.2, 0.15, 0.3), null_baseline=0.18).measured
    lines += of("stress/group_gap", (0.18, 0.1, 0.25), null_baseline=0.02).measured
    rule = next(rule for rule in RULES if rule.id == "stress/group_gap")
    found = verdict(dataclasses.replace(example(0), measured=lines), rule)
    assert (found.value, found.low, found.high) == pytest.approx((0.16, 0.08, 0.23))
    assert found.light == "bad"


def test_what_was_not_measured_says_why() -> None:
    none = Measured(**facts("stress/retention"), estimator="made", n=0, value=None, status="skipped", reason="no time")
    found = verdict(dataclasses.replace(example(0), measured=(none,)), HIGHER)
    assert (found.light, found.said) == ("unknown", "no time")
    assert verdict(dataclasses.replace(example(0), measured=()), HIGHER).said == "not measured by the tier standard"


def test_rules_are_of_defined_metrics_and_in_order() -> None:
    for rule in RULES:
        definition = DEFINITIONS[rule.id]
        assert rule.passes(rule.good, rule.warn)
        assert len(rule.words) == 3
        # Where the definition says which way is better the rule says the same.
        if definition.direction != "none":
            assert rule.lower == (definition.direction == "lower")
        assert rule.less is None or rule.less in DEFINITIONS
    assert len({rule.title for rule in RULES}) == len(RULES)


def test_every_rule_finds_its_lines_in_a_full_diagnosis() -> None:
    found = verdicts(example(1))
    assert [one.rule.title for one in found if one.light == "unknown"] == []
    assert sum(counts(found).values()) == len(RULES)


def test_remedies_can_be_run() -> None:
    commands = {remedy.command for rule in RULES for remedy in rule.remedies}
    assert len(commands) >= 8
    for command in commands:
        program, action, name, *words = command.replace("{experiment}", "demo_mbt").split()
        assert (program, action) == ("avjax", "train")
        assert isinstance(load(name, tuple(words))[0], Experiment)


READ = next(rule for rule in RULES if rule.id == "contribution/estimator_agreement")


@pytest.mark.parametrize(
    ("others", "value", "name"),
    [
        (("attention_share", "rollout_share", "chefer_share"), 0.7, ""),
        (("rollout_share", "chefer_share", "gradient_x_input"), 0.4, "rollout"),
        (("chefer_share", "gradient_x_input"), 0.1, "relevancy"),
    ],
)
def test_attention_is_read_by_what_there_is_of_it(others, value, name) -> None:
    """Through a bottleneck no query sees both modalities: rollout stands in, then relevancy, by name."""
    values = {"attention_share": 0.7, "rollout_share": 0.4, "chefer_share": 0.1, "gradient_x_input": 0.9}
    lines = [of(READ.id, values[one], estimator=f"mm_shap ~ {one}").measured[0] for one in others]
    lines += of(READ.id, 0.95, estimator="rollout_share ~ chefer_share").measured
    drawn = dataclasses.replace(example(0), measured=tuple(lines))
    found = verdict(drawn, READ)
    assert found.value == value
    assert found.where == (f"by {name}" if name else "")
    (shown,) = [one for one in headline(drawn) if one.name == "attention ρ"]
    assert shown.value == value
    assert shown.note == f"{name} with MM-SHAP".strip()


def test_why_attention_cannot_be_read() -> None:
    """In the words of what would have told it, not of other pairs of estimators."""
    other = facts(READ.id) | {"estimator": "mm_shap ~ gradient_x_input", "n": 2, "value": None}
    lines = [Measured(**other, status="skipped", reason="2 clips have both")]
    left = facts("contribution/rollout_share") | {"estimator": "through", "n": 0, "value": None}
    lines.append(Measured(**left, status="skipped", reason="left out of the tier smoke"))
    drawn = dataclasses.replace(example(0), measured=tuple(lines))
    found = verdict(drawn, READ)
    assert (found.light, found.said) == ("unknown", "left out of the tier smoke")
    constant = facts(READ.id) | {"estimator": "mm_shap ~ attention_share", "n": 9, "value": None}
    lines.append(Measured(**constant, status="undefined", reason="all clips have one share"))
    assert verdict(dataclasses.replace(drawn, measured=tuple(lines)), READ).said == "all clips have one share"


def test_what_is_not_good_comes_with_its_remedies() -> None:
    found = verdicts(example(1))
    for one in found:
        assert bool(one.commands) == (one.light != "good" and bool(one.rule.remedies))
    assert any("train demo_mbt" in command for one in verdicts(_overconfident()) for _, command in one.commands)
    model = {**example(1).about["model"], "experiment": None}
    unnamed = dataclasses.replace(_overconfident(), about={**example(1).about, "model": model})
    assert not any("{" in command or "None" in command for one in verdicts(unnamed) for _, command in one.commands)


def _overconfident() -> Diagnosis:
    return of("consistency/ece", 0.2)


def test_the_headline_is_of_the_lines() -> None:
    drawn = example(2)
    found = {one.name: one.value for one in headline(drawn)}
    assert len(found) == 15
    assert found["accuracy"] == drawn.value("stress/accuracy", condition=None)
    budgets = drawn.find("stress/adversarial_accuracy", group="audio+video", estimator="PGD-20")
    assert len({line.value for line in budgets}) > 1
    assert found["under attack"] == budgets[-1].value
    notes = {one.name: one.note for one in headline(drawn)}
    assert budgets[-1].condition.corruption in notes["under attack"]
    # One fill, and no other's numbers in it.
    fills = {line.value for line in drawn.find("contribution/ablation_accuracy", group="video")}
    assert len(fills) > 1
    for name, id, fields in (
        ("without audio", "contribution/ablation_accuracy", {"group": "video"}),
        ("cooperation", "contribution/cooperation", {}),
    ):
        assert found[name] == drawn.value(id, fill="drop", **fields)
        assert "drop" in notes[name]
    assert found["confusion"] == drawn.value("consistency/any_confusion", fill="drop") / 100
    assert all(value is not None for value in found.values())
    empty = headline(dataclasses.replace(drawn, measured=()))
    assert [one.name for one in empty] == list(found)
    assert {one.text for one in empty} == {"–"}
