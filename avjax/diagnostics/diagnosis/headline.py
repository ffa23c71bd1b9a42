"""The few numbers by which a diagnosis is told in one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.diagnosis.rules import RULES, of_gradients
from avjax.diagnostics.measured import Measured

ATTENTION = next(rule for rule in RULES if rule.id == "contribution/estimator_agreement")


@dataclasses.dataclass(frozen=True)
class Headline:
    """One number.

    Attributes:
      value: None where it was not measured.
      text: as a table shows it.
    """

    name: str
    value: float | None
    text: str
    note: str


def headline(diagnosis: Diagnosis) -> tuple[Headline, ...]:
    """The row, in one order for every model; modalities as the model has them."""
    names = diagnosis.modalities
    whole = "+".join(names)

    def mean(id: str, which: Callable[[Measured], bool] = lambda line: True) -> float | None:
        found = [line.value for line in diagnosis.find(id) if line.value is not None and which(line)]
        return float(np.mean(found)) if found else None

    def least(id: str) -> float | None:
        return min((line.value for line in diagnosis.find(id) if line.value is not None), default=None)

    def group(name: str | None) -> Callable[[Measured], bool]:
        return lambda line: line.group == name

    def together(line: Measured) -> bool:
        """Each clip attacked by itself: one perturbation for all is another, weaker attack."""
        return line.group == whole and line.estimator.startswith("PGD")

    def for_all(line: Measured) -> bool:
        """Of conditions that all clips are under."""
        return line.condition is None or line.condition.corruption != "missing"

    def only(name: str) -> Callable[[Measured], bool]:
        return lambda line: line.group == "+".join(other for other in names if other != name)

    def clean(line: Measured) -> bool:
        return line.condition is None and line.fill is None

    instead, agreeing = ATTENTION.asked(diagnosis.find(ATTENTION.id))
    agreement = float(np.mean([line.value for line in agreeing])) if agreeing else None
    confusion = mean("consistency/any_confusion")
    several = len(names) > 1
    rows = [("accuracy", mean("stress/accuracy", clean), True, "clean")]
    rows += [(f"without {name}", mean("contribution/ablation_accuracy", only(name)), True, "accuracy, mean of fills")
             for name in names if several]  # fmt: skip
    rows += [
        ("confusion", None if confusion is None else confusion / 100, True, "one alone knows better"),
        ("cooperation", mean("contribution/cooperation"), False, "SHAPE"),
        (f"{names[0]} share", diagnosis.value("contribution/mm_shap", group=names[0]), True, "MM-SHAP"),
    ]
    rows += [(f"retention, {name}", mean("stress/chance_adjusted_retention", group(name)), True,
              "above chance, greatest severity")
             for name in (*names, *([whole] if several else []))]  # fmt: skip
    rows += [
        ("drift", mean("drift/cmsd_severity", of_gradients), False, "CMSD, calibrated"),
        ("follows reliability", mean("drift/rfi", of_gradients), False, "RFI, −1 to 1"),
        ("ΔECE", mean("consistency/ece_change", for_all), False, "mean of conditions"),
        ("under attack", mean("stress/adversarial_accuracy", together), True, "accuracy, PGD on all"),
        ("worst group", least("stress/worst_group_accuracy"), True, "accuracy"),
        ("attention ρ", agreement, False, f"{instead} with MM-SHAP" if instead else "with MM-SHAP"),
    ]
    return tuple(Headline(name, value, _text(value, share), note) for name, value, share, note in rows)


def _text(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.2f}"
