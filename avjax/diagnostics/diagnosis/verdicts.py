"""Verdicts: what a number means for whoever wants to use the model, and what to try where it is bad.

The rule's light is of the worst of the lines that it asks for:

    good   the value passes ``good``, and the unfavourable end of its interval passes ``warn``
    bad    the value does not pass ``warn``
    warn   between, or too uncertain to be good
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from avjax.diagnostics.diagnosis.panels.panel import place, why
from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.diagnosis.rules import RULES, Light, Remedy, Rule
from avjax.diagnostics.measured import Measured


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One card.

    Attributes:
      where: of which line it is, such as the modality; empty where there is one.
      said: the sentence; the reason where the light is unknown.
      commands: (why, command), where it is not good.
    """

    rule: Rule
    light: Light
    said: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    where: str = ""
    commands: tuple[tuple[str, str], ...] = ()


def verdict(diagnosis: Diagnosis, rule: Rule) -> Verdict:
    """What a rule makes of a diagnosis."""
    instead, lines = rule.asked(diagnosis.find(rule.id))
    base = 0.0 if rule.less is None else diagnosis.value(rule.less)
    if not lines or base is None:
        return Verdict(rule, "unknown", why(diagnosis, (rule.less,)) if lines else _why_none(diagnosis, rule))

    def off(line: Measured) -> float:
        return base + ((line.null_baseline or 0.0) if rule.chance else 0.0)

    worst = (max if rule.lower else min)(lines, key=lambda line: line.value - off(line))
    ends = (worst.value, worst.ci_lo, worst.ci_hi)
    value, low, high = (None if edge is None else edge - off(worst) for edge in ends)
    light = rule.light(value, low, high)
    where = ", ".join(word for word in (f"by {instead}" if instead else "", place(worst)) if word)
    said = rule.words[("good", "warn", "bad").index(light)]
    if light == "warn" and rule.passes(value, rule.good):
        said = f"{rule.words[0]} But the interval is too wide to be sure."
    remedies = () if light == "good" else rule.remedies
    return Verdict(rule, light, said, value, low, high, where, _commands(diagnosis, remedies))


def _why_none(diagnosis: Diagnosis, rule: Rule) -> str:
    """In the words of a line that would have been judged, or of what it would have been made of."""
    lines = [line for line in diagnosis.find(rule.id) if any(which(line) for _, which in rule.choices)]
    reasons = [line.reason for line in lines if line.reason]
    return reasons[0] if reasons else why(diagnosis, rule.reasons or (rule.id,))


def _commands(diagnosis: Diagnosis, remedies: Sequence[Remedy]) -> tuple[tuple[str, str], ...]:
    """What may help, with commands; one of the diagnosed experiment needs to know which that is."""
    own = diagnosis.about["model"].get("experiment")
    return tuple(
        (remedy.why, remedy.command.replace("{experiment}", str(own)))
        for remedy in remedies if own or "{experiment}" not in remedy.command
    )  # fmt: skip


def verdicts(diagnosis: Diagnosis) -> tuple[Verdict, ...]:
    """Every rule's, in the order of the table."""
    return tuple(verdict(diagnosis, rule) for rule in RULES)


def counts(found: Sequence[Verdict]) -> Mapping[Light, int]:
    """How many of each light."""
    return {light: sum(one.light == light for one in found) for light in ("good", "warn", "bad", "unknown")}
