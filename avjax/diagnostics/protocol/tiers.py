"""Sample sizes of the tiers. All draw their clips in the same order, so that a small one is part of a large one."""

from __future__ import annotations

import dataclasses

from avjax.diagnostics.fills import Fill

SHAPLEY_FILLS: tuple[Fill, ...] = ("drop", "mean")


@dataclasses.dataclass(frozen=True)
class Tier:
    """How much is measured. Sizes are of clips; None is the whole split, 0 leaves a stage out.

    Attributes:
      name: smoke, standard or full.
      clips: of ablation, missing modalities, groups.
      timed, trained: of drift over a clip's time, and over training.
      shapley, attention, gradients, additive, faithful: of those stages; ``gradients`` of heads too.
      randomised: of weights made random.
      pointed: of explanations held against where the label is told.
      degraded: of faithfulness under corruption and attack.
      stressed: of corruptions, offsets and dilution.
      attacked: of adversarial attacks.
      permutations: of Shapley values, at first and at most.
      shapley_fills: of absent players, "drop" (tokens) and "mean" (raw parts); a model whose tokens cannot be hidden is
        asked with the mean in any case.
      fills: ways in which a modality is made absent; ``rate_fills`` those of some clips, or of some steps.
      corruptions: names in the suite; () for all that apply.
      severities: of those.
      drift: whether saliency and attention are looked at under corruption.
      offsets: of the sound, milliseconds, on either side.
      rates: of missing modalities and of dilution.
      attack_steps: of PGD, started anew ``attack_restarts`` times; ``auto`` runs MI-FGSM and AutoAttack as well.
      patches: shares of the frame that a patch for all clips covers.
      relevance: whether relevance is carried through the layers (rollout, Chefer's rule); its programs take longer to
        compile than the rest of the smoke tier.
    """

    name: str
    clips: int | None
    timed: int | None
    trained: int | None
    shapley: int | None
    attention: int | None
    gradients: int | None
    additive: int
    faithful: int | None
    randomised: int | None
    pointed: int | None
    degraded: int | None
    stressed: int | None
    attacked: int | None
    permutations: tuple[int, int]
    shapley_fills: tuple[Fill, ...]
    fills: tuple[Fill, ...]
    rate_fills: tuple[Fill, ...]
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    drift: bool
    offsets: tuple[float, ...]
    rates: tuple[float, ...]
    attack_steps: int
    attack_restarts: int = 1
    patches: tuple[float, ...] = (0.05,)
    auto: bool = False
    relevance: bool = True

    def __post_init__(self) -> None:
        others = set(self.shapley_fills) - set(SHAPLEY_FILLS)
        if others:
            raise ValueError(
                f"tier {self.name}: shapley_fills {', '.join(sorted(others))}: absent players are dropped or at the"
                f" mean, give {' or '.join(map(repr, SHAPLEY_FILLS))}"
            )


# Six of each kind: noise, loss, and what a channel or a camera does.
AUDIBLE = tuple(f"audio/{n}" for n in ("white_noise", "babble", "low_pass", "dropout", "reverberation", "clipping"))
VISIBLE = tuple(f"video/{n}" for n in ("gaussian_noise", "defocus_blur", "low_light", "jpeg", "freeze", "occlusion"))
TOGETHER = tuple(f"joint/{n}" for n in ("gaussian", "compression", "rain", "wind", "crowd", "interference"))

# Of what differentiates the model the maps of the page's clips alone.
SMOKE = Tier(
    name="smoke", clips=64, timed=0, trained=0,
    shapley=32, attention=32, gradients=0, additive=0, faithful=0, randomised=0,
    pointed=0, degraded=0, stressed=32, attacked=0,
    permutations=(8, 8), shapley_fills=("drop",),
    fills=("drop", "mean"), rate_fills=("drop",), corruptions=(AUDIBLE[0], VISIBLE[0], TOGETHER[0]), severities=(3,),
    drift=False, offsets=(), rates=(0.5,), attack_steps=0, relevance=False,
)  # fmt: skip
STANDARD = Tier(
    name="standard", clips=1000, timed=64, trained=256,
    shapley=32, attention=128, gradients=16, additive=64, faithful=8, randomised=32,
    pointed=128, degraded=6, stressed=32, attacked=16, permutations=(32, 64), shapley_fills=("drop", "mean"),
    fills=("drop", "zero", "mean", "noise", "marginal"), rate_fills=("drop", "mean"),
    corruptions=(*AUDIBLE, *VISIBLE, *TOGETHER), severities=(1, 2, 3, 4, 5), drift=True,
    offsets=(40.0, 80.0, 160.0, 320.0, 640.0), rates=(0.25, 0.5, 0.75, 1.0), attack_steps=20,
)  # fmt: skip
FULL = Tier(
    name="full", clips=None, timed=1000, trained=256,
    shapley=None, attention=None, gradients=None, additive=500, faithful=200,
    randomised=200, pointed=None, degraded=32, stressed=None, attacked=1000,
    permutations=(32, 256), shapley_fills=("drop", "mean"),
    fills=("drop", "zero", "mean", "noise", "marginal"),
    rate_fills=("drop", "zero", "mean", "noise", "marginal"), corruptions=(),
    severities=(1, 2, 3, 4, 5), drift=True, offsets=(40.0, 80.0, 160.0, 320.0, 640.0, 1280.0),
    rates=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), attack_steps=50,
    attack_restarts=5, patches=(0.01, 0.02, 0.05), auto=True,
)  # fmt: skip
TIERS = {tier.name: tier for tier in (SMOKE, STANDARD, FULL)}
