"""Attacks on the clips of a diagnosis, through a probe that can be differentiated."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.stress.attacks.adversary import Adversary, Attack, Attacked, Budget, Raw, Valid
from avjax.streams import Stream


@runtime_checkable
class Differentiable(Protocol):
    """Of a probe: logits as a function that JAX can trace."""

    batch: int

    def forward(self, streams: dict[str, Stream]) -> Float[Array, "B K"]: ...


def inputs(clips: Clips) -> tuple[Raw, Valid]:
    """Inputs of the model of ``adversary_of``: values under a modality's name, and the rest of its stream beside them,
    which no attack touches; and where they are valid."""
    found = {}
    for name, stream in clips.streams.items():
        found |= {name: stream.values, f"{name}/valid": stream.valid, f"{name}/start": stream.start}
    return found, {name: np.asarray(stream.valid) for name, stream in clips.streams.items()}


def adversary_of(
    probe: Differentiable, clips: Clips, attacks: tuple[Attack, ...], *, seed: int = 0, batch: int | None = None
) -> Adversary:
    """Of the probe's model, for clips of these rates.

    Args:
      batch: rows of one call; the probe's, unless told.
    """
    rates = {name: stream.rate for name, stream in clips.streams.items()}

    def logits(values: dict[str, Array]) -> Array:
        streams = {
            name: Stream(values[name], values[f"{name}/valid"], values[f"{name}/start"], rate)
            for name, rate in rates.items()
        }
        return probe.forward(streams)

    return Adversary(jax.tree_util.Partial(logits), attacks, batch=batch or probe.batch, seed=seed)


def attacked(adversary: Adversary, clips: Clips, budget: Budget) -> tuple[Attacked, Clips]:
    """What became of each clip, and the clips with the worst values that were found."""
    values, valid = inputs(clips)
    found = adversary(values, clips.label, budget, clips.index, valid)
    changed = {name: clips.streams[name].replace(values=x) for name, x in found.values.items()}
    return found, clips.replace(changed)
