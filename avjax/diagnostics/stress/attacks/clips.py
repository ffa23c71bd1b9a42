"""Attacks on the clips of a diagnosis, through a probe that can be differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.stress.attacks.adversary import Adversary, Attack, Attacked, Budget, Raw, Valid
from avjax.diagnostics.stress.attacks.region import BOX
from avjax.streams import Stream

Forward = Callable[[Mapping[str, Stream]], Float[Array, "B K"]]
# Axes of raw sound [B, S] and raw frames [B, T, H, W, C]: features have no box.
RAW = {"audio": 2, "video": 5}


def inputs(clips: Clips) -> tuple[Raw, Valid]:
    """Inputs of the model of ``adversary_of``: values under a modality's name, and the rest of its stream beside them,
    which no attack touches; and where they are valid."""
    found = {}
    for name, stream in clips.streams.items():
        found |= {name: stream.values, f"{name}/valid": stream.valid, f"{name}/start": stream.start}
    return found, {name: np.asarray(stream.valid) for name, stream in clips.streams.items()}


def adversary_of(
    forward: Forward, clips: Clips, attacks: tuple[Attack, ...], *, batch: int = 32, seed: int = 0
) -> Adversary:
    """Of a model of streams, for clips that are sampled like these; budgets are of raw sound and raw frames.

    Args:
      forward: such as a probe's. A ``jax.tree_util.Partial`` brings its arrays along, as of ``Adversary``.
      batch: rows of one call.
    """
    rates = {name: stream.rate for name, stream in clips.streams.items()}
    box = {name: BOX[name] for name, axes in RAW.items() if name in rates and clips.streams[name].values.ndim == axes}
    whole = forward if isinstance(forward, jax.tree_util.Partial) else jax.tree_util.Partial(forward)
    model = jax.tree_util.Partial(functools.partial(_of_inputs, rates), whole)
    return Adversary(model, attacks, box, batch, seed)


def attacked(adversary: Adversary, clips: Clips, budget: Budget) -> tuple[Attacked, Clips]:
    """What became of each clip, and the clips with the worst values that were found."""
    values, valid = inputs(clips)
    found = adversary(values, clips.label, budget, clips.index, valid)
    changed = {name: clips.streams[name].replace(values=x) for name, x in found.values.items()}
    return found, clips.replace(changed)


def _of_inputs(rates: Mapping[str, float], forward: jax.tree_util.Partial, values: Mapping[str, Any]) -> Array:
    return forward({
        name: Stream(values[name], values[f"{name}/valid"], values[f"{name}/start"], rate)
        for name, rate in rates.items()
    })  # fmt: skip
