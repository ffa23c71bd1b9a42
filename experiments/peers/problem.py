"""A small network in float64 and clips, for agreement.py: what both sides compute from is drawn here, and nowhere else.

    audio [B, 8, 3], video [B, 4, 6] -> tanh of a linear map each, with positions -> 12 tokens of width 8
    -> one layer of attention, two heads, with a residual -> mean over tokens -> softplus, linear -> 3 logits

Smooth, so that integrals converge, and with attention and a hidden layer, so that modalities interact. Everything drawn
is a multiple of 1/1024: exact in float32 too, which some libraries go through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from avjax.diagnostics.players import Players, raw_players
from avjax.streams import Stream

MODALITIES = ("audio", "video")
SHAPES = {"audio": (8, 3), "video": (4, 6)}
CELLS = sum(steps * features for steps, features in SHAPES.values())
# All cells of a clip as one picture, for libraries that know no other input.
PICTURE = (6, 8)
WIDTH, HEADS, HIDDEN, CLASSES = 8, 2, 16, 3
CLIPS, DRAWS, SUBSET, INSIDE = 4, 24, 12, 10


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is asked of both sides.

    Attributes:
      weights: of the network, by name.
      clips, baseline: modality -> [B, T, C].
      others: further baselines, of the expected gradients.
      noise: [S, B, N], disturbances of all cells of a clip, audio's first.
      removed: [S, N], sets of ``SUBSET`` cells.
      inside: [B, N], ``INSIDE`` cells of each clip that something is at.
    """

    weights: dict[str, Float[np.ndarray, "..."]]
    clips: dict[str, Float[np.ndarray, "B T C"]]
    baseline: dict[str, Float[np.ndarray, "B T C"]]
    others: tuple[dict[str, Float[np.ndarray, "B T C"]], ...]
    noise: Float[np.ndarray, "S B N"]
    removed: Bool[np.ndarray, "S N"]
    inside: Bool[np.ndarray, "B N"]


def draw(seed: int) -> Problem:
    """The problem of a seed."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Float[np.ndarray, "..."]:
        return np.round(scale * rng.standard_normal(shape) * 1024) / 1024

    weights = {}
    for name, (steps, features) in SHAPES.items():
        weights[f"{name}/kernel"] = normal(features, WIDTH, scale=0.7)
        weights[f"{name}/position"] = normal(steps, WIDTH, scale=0.3)
    for name in ("query", "key", "value", "out"):
        weights[name] = normal(WIDTH, WIDTH, scale=0.8)
    weights |= {"hidden": normal(WIDTH, HIDDEN, scale=0.8), "hidden/bias": normal(HIDDEN, scale=0.2)}
    weights |= {"logits": normal(HIDDEN, CLASSES, scale=0.3), "logits/bias": normal(CLASSES, scale=0.2)}

    def clips() -> dict[str, Float[np.ndarray, "B T C"]]:
        return {name: normal(CLIPS, *shape) for name, shape in SHAPES.items()}

    # One value a feature at every step and of every clip: silence, and a still picture.
    still = {
        name: np.broadcast_to(normal(features, scale=0.5), (CLIPS, steps, features)).copy()
        for name, (steps, features) in SHAPES.items()
    }
    return Problem(
        weights,
        clips(),
        still,
        (clips(), clips(), clips()),
        normal(DRAWS, CLIPS, CELLS, scale=0.1),
        np.stack([_chosen(rng, SUBSET) for _ in range(DRAWS)]),
        np.stack([_chosen(rng, INSIDE) for _ in range(CLIPS)]),
    )


def _chosen(rng: np.random.Generator, count: int) -> Bool[np.ndarray, " N"]:
    return rng.permutation(np.arange(CELLS) < count)


@jax.jit
def logits(clips: Mapping[str, Array], weights: Mapping[str, Array]) -> Float[Array, "B K"]:
    """The network."""
    embedded = [jnp.tanh(clips[name] @ weights[f"{name}/kernel"] + weights[f"{name}/position"]) for name in MODALITIES]
    tokens = jnp.concatenate(embedded, axis=1)
    heads = (*tokens.shape[:2], HEADS, WIDTH // HEADS)
    query, key, value = ((tokens @ weights[name]).reshape(heads) for name in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(WIDTH // HEADS)
    attended = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value).reshape(tokens.shape)
    pooled = (tokens + attended @ weights["out"]).mean(axis=1)
    hidden = jax.nn.softplus(pooled @ weights["hidden"] + weights["hidden/bias"])
    return hidden @ weights["logits"] + weights["logits/bias"]


def score(clips: Mapping[str, Array], weights: Mapping[str, Array], classes: Int[Array, " B"]) -> Float[Array, " B"]:
    """The logit of each row's class."""
    found = logits(clips, weights)
    return found[jnp.arange(len(classes)), classes]


def players(count: int) -> Players:
    """Windows in time, ``count`` of each modality."""
    streams = {
        name: Stream(np.zeros((1, *shape)), np.ones((1, shape[0]), bool), np.zeros(1), 1.0)
        for name, shape in SHAPES.items()
    }
    return raw_players(streams, count)


def cells_of(divided: Players) -> Int[np.ndarray, " N"]:
    """The player of each cell: a cell is a feature at a step, all of a step are one player's."""
    return np.concatenate([np.repeat(divided.where[name], SHAPES[name][1]) for name in MODALITIES])


def flat(clips: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B N"]:
    """All cells of each clip, audio's first."""
    return np.concatenate([np.asarray(clips[name]).reshape(len(clips[name]), -1) for name in MODALITIES], axis=1)


def apart(cells: Float[np.ndarray, "B N"]) -> dict[str, Float[np.ndarray, "B T C"]]:
    """What ``flat`` joined."""
    parts = np.split(cells, [np.prod(SHAPES["audio"])], axis=1)
    return {name: part.reshape(-1, *SHAPES[name]) for name, part in zip(MODALITIES, parts, strict=True)}
