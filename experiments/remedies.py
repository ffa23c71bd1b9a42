"""Remedies for what a diagnosis finds, each a run with it beside the run without, on the synthetic demo corpus.

avjax compare remedies

    without        with                    remedy                                     against
    joint          joint_modulation        OGM-GE, gradient modulation                a modality that outruns the other
    joint          joint_prototypes        PMR, prototypes of each modality           a modality that outruns the other
    late           late_noise              noise on sound and pictures                corrupted inputs
    late           late_adversarial        adversarial training, one gradient         inputs made to mislead
    late           late_groups             weights of the classes that fare worst     classes that fare worse
    merged         merged_dropout          modality dropout                           a modality that is missing
    merged         merged_learned          modality dropout, learned tokens for it    a modality that is missing
    merged         merged_balance          balance of attention between modalities    attention to one modality alone

The two of a pair differ in their remedy alone. The demo corpus is even: sound and pictures tell equally much, and no
class is rare. One with something to cure has pictures that are hard to read, and four of its eight emotions are rare,
one clip in twenty each (redundancy 0.6) or, for group weights, one in forty (0.8),

avjax prepare demo --data data/uneven --out records/uneven --corpus.seen-jitter 0.4 --corpus.redundancy 0.6

and goes in with ``--records records/uneven``. 11 runs a seed, of 300 steps each, and three seeds. ``python
experiments/cures.py`` does all of it and says by how much each remedy moves what it is against.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from demo_common import AUDIO, CLASSES, SIZE, VIDEO, demo

from avjax.data.augment import ModalityDropout, PixelNoise, WaveformJitter
from avjax.data.frontend import Augment
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.diagnostics.stress.attacks.training import AdversarialTraining
from avjax.experiment import Comparison, Experiment
from avjax.models import late_fusion, mbt
from avjax.nn.missing import WithMissingTokens
from avjax.objectives.attention import AttentionTerms
from avjax.objectives.classification import Classification
from avjax.objectives.groups import WithGroups
from avjax.objectives.prototypes import WithPrototypes
from avjax.objectives.terms import WithTerms
from avjax.training.rules import GradientModulation

LOSS = Classification(label_smoothing=0.1)
# One loss of both, as OGM-GE and PMR have it: once one modality has the answer, nothing drives the other.
JOINT = Classification(label_smoothing=0.1, per_modality=False)
LATE = late_fusion.Config((AUDIO, VIDEO), CLASSES, SIZE)
# One sequence of both, so that attention chooses between them.
MERGED = mbt.Config((AUDIO, VIDEO), CLASSES, SIZE, fusion_layer=2, fusion="merged")
NOISE = Augment(waveform=WaveformJitter(gain=(-6.0, 6.0), snr=(0.0, 20.0)), noise=PixelNoise())
DROPOUT = Augment(dropout=ModalityDropout(drop=0.5))
# One gradient from a random start (Wong et al. 2020), which costs a small model two steps more, not seven.
ATTACK = AdversarialTraining(attack=PGD(steps=1, step=1.25), pixels=4 / 255, snr=30.0)

# With the remedy -> without it.
PAIRS = {
    "joint_modulation": "joint",
    "joint_prototypes": "joint",
    "late_noise": "late",
    "late_adversarial": "late",
    "late_groups": "late",
    "merged_dropout": "merged",
    "merged_learned": "merged",
    "merged_balance": "merged",
}


def experiments() -> dict[str, Experiment]:
    late, merged = demo(LATE), _with(demo(MERGED), objective=AttentionTerms(LOSS))
    joint = _with(late, objective=JOINT)
    return {
        "late": late,
        "joint": joint,
        # At 0.3 three seeds of 300 steps told nothing apart.
        "joint_modulation": _with(joint, rule=GradientModulation(alpha=1.0)),
        "joint_prototypes": _with(joint, model=WithPrototypes(LATE), objective=WithTerms(JOINT, (("prototype", 1.0),))),
        "late_noise": _augmented(late, NOISE),
        "late_adversarial": _with(late, inputs=ATTACK),
        "late_groups": _with(
            late,
            # 300 steps are few for the paper's rate, 0.01.
            model=WithGroups(LATE, rate=0.1, classification=LOSS),
            objective=WithTerms(None, (("group", 1.0),)),
        ),
        "merged": merged,
        "merged_dropout": _augmented(merged, DROPOUT),
        "merged_learned": _with(_augmented(merged, DROPOUT), model=WithMissingTokens(MERGED)),
        "merged_balance": _with(merged, objective=AttentionTerms(LOSS, balance=1.0)),
    }


def comparison() -> Comparison:
    return Comparison(experiments())


def _with(experiment: Experiment, **changes: Any) -> Experiment:
    return dataclasses.replace(experiment, **changes)


def _augmented(experiment: Experiment, augment: Augment) -> Experiment:
    return _with(experiment, frontend=dataclasses.replace(experiment.frontend, augment=augment))
