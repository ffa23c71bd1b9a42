"""The rules by which the page gives a light to a number; thresholds are ours, and printed beside every light.

Where a light is not good the rule names remedies: what may help, each with a command that trains with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from avjax.diagnostics.diagnosis.arrays import ATTENDED
from avjax.diagnostics.measured import Measured

Light = Literal["good", "warn", "bad", "unknown"]
Which = Callable[[Measured], bool]


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What may help.

    Attributes:
      why: what it is, and the field of an experiment in which it stands.
      command: that trains with it; ``{experiment}`` is the one diagnosed, others are on the demo corpus.
    """

    why: str
    command: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """From a number to a light.

    Attributes:
      title: what is judged.
      id: of the definition.
      good, warn: the value from which on the light is so; below ``warn`` it is bad, or above it where lower is better.
      words: a sentence for each of good, warn, bad.
      which: of the definition's lines; all, unless told.
      instead: (name, which) to ask for in this order where no line of the first has a value; the card then names it.
      reasons: definitions whose lines say why there is none; its own, unless told.
      lower: whether lower is better.
      less: definition whose value is taken off first, such as that of guessing.
      chance: whether what a line's number comes to by chance, its null baseline, is taken off.
      percent: whether it is shown in percent.
    """

    title: str
    id: str
    good: float
    warn: float
    words: tuple[str, str, str]
    which: Which = lambda line: True
    instead: tuple[tuple[str, Which], ...] = ()
    reasons: tuple[str, ...] = ()
    lower: bool = False
    less: str | None = None
    chance: bool = False
    percent: bool = True
    remedies: tuple[Remedy, ...] = ()

    @property
    def choices(self) -> tuple[tuple[str, Which], ...]:
        """What may be judged, the first choice without a name."""
        return ("", self.which), *self.instead

    def asked(self, lines: Iterable[Measured]) -> tuple[str, list[Measured]]:
        """Those of the definition's lines that are judged, and what they are of where that is not the first choice."""
        known = [line for line in lines if line.value is not None]
        for name, which in self.choices:
            found = [line for line in known if which(line)]
            if found:
                return name, found
        return "", []

    @property
    def thresholds(self) -> str:
        """Both, in words."""
        sign = "≤" if self.lower else "≥"
        return f"good {sign} {self.text(self.good)}, bad {'>' if self.lower else '<'} {self.text(self.warn)}"

    def text(self, value: float) -> str:
        """A value as the card shows it."""
        return (f"{100 * value:.0f} %" if self.percent else f"{value:.2f}").replace("-", "−")

    def passes(self, value: float, threshold: float) -> bool:
        """Whether the value is on the better side."""
        return value <= threshold if self.lower else value >= threshold

    def light(self, value: float, low: float | None, high: float | None) -> Light:
        """By the value and its interval."""
        unfavourable = high if self.lower else low
        if not self.passes(value, self.warn):
            return "bad"
        if self.passes(value, self.good) and (unfavourable is None or self.passes(unfavourable, self.warn)):
            return "good"
        return "warn"


def _clean(line: Measured) -> bool:
    return line.condition is None and line.fill is None


def _as_it_is(line: Measured) -> bool:
    """Of what is predicted for clips as they are, whatever stands in for what is removed from them."""
    return line.condition is None and _of_prediction(line)


def _of_prediction(line: Measured) -> bool:
    return line.target != "label"


def of_gradients(line: Measured) -> bool:
    """Drift of saliency by gradients: that of attention stands beside it, of fewer corruptions."""
    return not line.estimator.startswith(ATTENDED)


def _missing(line: Measured) -> bool:
    return line.fill is not None


def _attention(line: Measured) -> bool:
    """An agreement of what attention says with MM-SHAP."""
    return "mm_shap" in line.estimator and any(word in line.estimator for word in ("attention", "output_share"))


def _through_layers(name: str) -> Which:
    """An agreement of what is carried through all layers with MM-SHAP."""
    return lambda line: "mm_shap" in line.estimator and name in line.estimator


def _joint(line: Measured) -> bool:
    return line.group is not None and "+" in line.group


DROPOUT = Remedy(
    "Modality dropout in training: frontend.augment = Augment(dropout=ModalityDropout(drop=0.5)).",
    "avjax train remedies:merged_dropout",
)
MODULATION = Remedy(
    "OGM-GE slows the modality that is ahead: rule = GradientModulation(alpha=1.0).",
    "avjax train remedies:joint_modulation",
)
PROTOTYPES = Remedy(
    "PMR helps the modality that is behind: model = WithPrototypes(...), with its term in the objective.",
    "avjax train remedies:joint_prototypes",
)
NOISE = Remedy(
    "Noise in training: frontend.augment = Augment(waveform=WaveformJitter(...), noise=PixelNoise()).",
    "avjax train remedies:late_noise",
)
ADVERSARIAL = Remedy(
    "Adversarial training: inputs = AdversarialTraining(attack=PGD(...)), at the radii that it is to withstand.",
    "avjax train remedies:late_adversarial",
)
GROUPS = Remedy(
    "More weight for the groups that fare worst: model = WithGroups(...), with its term in the objective.",
    "avjax train remedies:late_groups",
)
BALANCE = Remedy(
    "Attention held to even masses of the modalities: objective = AttentionTerms(..., balance=1.0).",
    "avjax train remedies:merged_balance",
)
STABILITY = Remedy(
    "Attention held to what it is in a noisy view: objective = AttentionTerms(..., stability=1.0) and a second_view.",
    "avjax train demo_attention --objective.stability 1",
)
AVERAGE = Remedy(
    "A moving average of the parameters is often better calibrated: training.average.",
    "avjax train {experiment} --training.average 0.99",
)

RULES = (
    Rule(
        "Better than guessing", "stress/accuracy", 0.2, 0.05,
        ("Far above the commonest class.", "Little above the commonest class.",
         "No better than the commonest class: nothing below can be read."),
        which=_clean, less="contribution/majority_accuracy",
    ),
    Rule(
        "Both modalities count", "contribution/mm_shap", 0.2, 0.05,
        ("Every modality has its part in the prediction.", "One modality has little part in the prediction.",
         "One modality is all but ignored."),
        which=_of_prediction,
        remedies=(DROPOUT, MODULATION, BALANCE),
    ),
    Rule(
        "No modality held back", "contribution/utilisation_gap", 0.02, 0.05,
        ("Each modality does what a model of it alone does.", "A modality does less than a model of it alone.",
         "A modality does far less than a model of it alone."),
        lower=True,
        remedies=(MODULATION, PROTOTYPES),
    ),
    Rule(
        "No conflict between modalities", "consistency/any_confusion", 2.0, 5.0,
        ("Rarely does a single modality know better.", "Sometimes a single modality knows better.",
         "Often a single modality knows better than both together."),
        lower=True, percent=False,
        remedies=(MODULATION, DROPOUT),
    ),
    Rule(
        "Attention may be read", "contribution/estimator_agreement", 0.6, 0.3,
        ("Attention ranks clips as the Shapley shares do.", "Attention follows the Shapley shares loosely.",
         "Attention does not say which modality counts."),
        which=_attention, percent=False,
        # Through a bottleneck no query sees both modalities: attention has a share of each layer by layer alone.
        instead=(("rollout", _through_layers("rollout_share")), ("relevancy", _through_layers("chefer_share"))),
        reasons=("contribution/mm_shap", "contribution/rollout_share", "contribution/chefer_share",
                 "contribution/attention_share"),
    ),
    Rule(
        "Survives a missing modality", "consistency/negative_flips", 0.1, 0.25,
        ("Few clips are lost without a modality.", "Some clips are lost without a modality.",
         "Many clips are lost without a modality."),
        which=_missing, lower=True,
        remedies=(DROPOUT,),
    ),
    Rule(
        "Survives corruption", "stress/relative_performance", 0.85, 0.7,
        ("Keeps most of its accuracy.", "Loses accuracy under corruption.", "Loses much of its accuracy."),
        remedies=(NOISE, DROPOUT),
    ),
    Rule(
        "Leaves what is corrupted", "drift/rfi", 0.3, -0.3,
        ("Turns to the other modality as one gets worse.", "Does not turn away from what gets worse.",
         "Is captured by noise: it attends more to what gets worse."),
        which=of_gradients, percent=False,
        remedies=(NOISE, STABILITY),
    ),
    Rule(
        "Calibrated", "consistency/ece", 0.05, 0.1,
        ("Confidence may be believed.", "Confidence is somewhat off.", "Confidence is not to be believed."),
        which=_clean, lower=True,
        remedies=(AVERAGE,),
    ),
    Rule(
        "Calibrated without a modality", "consistency/ece_change", 0.05, 0.15,
        ("Stays as calibrated as on whole clips.", "Becomes overconfident without a modality.",
         "Is confident of what it cannot know."),
        which=_missing, lower=True,
        remedies=(DROPOUT,),
    ),
    Rule(
        "Balanced in training", "contribution/imbalance_alarm", 0.1, 0.3,
        ("The modalities learned at one pace.", "One modality was ahead for some of the training.",
         "One modality was ahead for much of the training."),
        lower=True,
        remedies=(MODULATION, PROTOTYPES),
    ),
    Rule(
        "Withstands attack", "stress/adversarial_accuracy", 0.4, 0.1,
        ("Holds under attack on both modalities.", "Loses much under attack on both modalities.",
         "Falls to an attack that is hard to see or hear."),
        which=_joint,
        remedies=(ADVERSARIAL,),
    ),
    Rule(
        "Attacks may be believed", "stress/attack_guard", 0.02, 0.1,
        ("Attacks hold what they must.", "An attack is weaker than it must be: accuracies under attack say too much.",
         "Attacks do not follow the model: accuracies under attack say nothing."),
        lower=True,
    ),
    Rule(
        "No patch takes over", "stress/attack_success", 0.3, 0.7,
        ("No small patch was found that takes over.", "A small patch turns many clips into one class.",
         "A small patch turns most clips into one class, as a backdoor would."),
        lower=True,
    ),
    Rule(
        "Fair to groups", "stress/group_gap", 0.05, 0.15,
        ("Groups of clips are told about equally well.", "Some groups of clips are told less well.",
         "Some groups of clips are told far less well."),
        lower=True, chance=True,
        remedies=(GROUPS,),
    ),
    Rule(
        "Explanations are faithful", "faithfulness/deletion_gap", 0.1, 0.02,
        ("What the maps show is what counts.", "The maps are little better than chance.",
         "The maps are no better than chance."),
        which=_as_it_is, percent=False,
    ),
)  # fmt: skip
