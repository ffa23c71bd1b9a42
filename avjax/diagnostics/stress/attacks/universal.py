"""One perturbation, or one patch, for all clips: made on some, to be judged on others."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.stress.attacks.adversary import Budget, Raw, Valid
from avjax.diagnostics.stress.attacks.losses import ascent, cross_entropy
from avjax.diagnostics.stress.attacks.region import BOX, Box, Model, Region
from avjax.streams import beside

# Beyond it a row is wrong for certain, and would only draw the sum of gradients to itself.
MOST_LOSS = 9.0

Corners = Int[np.ndarray, "B 2"]
"""Upper end and left end of each row's patch."""


@dataclasses.dataclass(frozen=True)
class UniversalPerturbation:
    """x' = P(x + radius u), the same u for every clip.

    Attributes:
      direction: modality -> u in [-1, 1], of a clip's shape.
      box: modality -> low, high.
    """

    direction: Mapping[str, Float[np.ndarray, "..."]]
    box: Box

    def applied(self, clean: Raw, budget: Budget, valid: Valid) -> Raw:
        """The inputs with each modality of the budget changed."""
        x = {name: jnp.asarray(clean[name]) for name in self.direction if name in budget}
        radius = {name: jnp.broadcast_to(jnp.float32(budget[name]), len(rows)) for name, rows in x.items()}
        there = {name: jnp.asarray(mask) for name, mask in valid.items()}
        region = Region.of(x, radius, there, self.box)
        changed = region.project(
            {name: x + region.reach[name] * self.direction[name] for name, x in region.clean.items()}
        )
        return {**clean, **jax.tree.map(np.asarray, changed)}


def universal_perturbation(
    model: Model,
    clean: Raw,
    label: Num[np.ndarray, " B"],
    budget: Budget,
    valid: Valid,
    *,
    box: Box = BOX,
    steps: int = 100,
    batch: int = 32,
    seed: int = 0,
) -> UniversalPerturbation:
    """Stochastic sign ascent on the clipped loss over clips (Shafahi et al. 2020, "Universal adversarial training").

        u <- clip( u + (2.5 / steps) sign( sum_b radius_b grad min(CE_b, 9) ), -1, 1 )

    over random batches, the gradient straight through the box. u is in units of the radius, so that it also goes with
    radii that differ by clip (SNR). The length of the steps and the 9 are ours.

    Args:
      clean, label, budget, valid: as of ``Adversary``.
    """
    radius = {name: np.broadcast_to(np.asarray(r, np.float32), len(label)) for name, r in budget.items()}
    rows = {"clean": dict(clean), "radius": radius, "valid": dict(valid), "label": np.asarray(label, np.int32)}
    program = compiled(functools.partial(_perturb, box, 2.5 / steps))
    direction = {name: jnp.zeros(clean[name].shape[1:]) for name in radius}
    for chosen in _random_batches(len(label), batch, steps, seed):
        direction = program(_partial(model), direction, jax.tree.map(lambda x, of=chosen: np.asarray(x)[of], rows))
    return UniversalPerturbation(jax.tree.map(np.asarray, direction), box)


def _perturb(box: Box, size: float, model: Model, direction: dict[str, Array], rows: dict) -> dict[str, Array]:
    clean, label = rows["clean"], rows["label"]
    region = Region.of({name: clean[name] for name in direction}, rows["radius"], rows["valid"], box)
    values = region.project({name: x + region.reach[name] * direction[name] for name, x in region.clean.items()})
    _, _, gradient = ascent(lambda values: model({**clean, **values}), _clipped(label), values, region)
    moved = {
        name: d + size * jnp.sign((region.reach[name] * gradient[name]).sum(axis=0)) for name, d in direction.items()
    }
    return {name: jnp.clip(d, -1, 1) for name, d in moved.items()}


@dataclasses.dataclass(frozen=True)
class UniversalPatch:
    """A square that covers a part of every frame, the same for every clip.

    Attributes:
      pattern: [h, w, C].
      modality: of frames [B, T, H, W, C].
    """

    pattern: Float[np.ndarray, "h w C"]
    modality: str = "video"

    def applied(self, clean: Raw, corners: Corners, valid: Valid) -> Raw:
        """The inputs with the patch on every valid frame of each clip, at one place."""
        frames = clean[self.modality]
        there = valid.get(self.modality, np.ones(frames.shape[:2], bool))
        changed = _placed(jnp.asarray(self.pattern), jnp.asarray(frames), jnp.asarray(corners), jnp.asarray(there))
        return {**clean, self.modality: np.asarray(changed)}

    def corners(self, frames: Float[np.ndarray, "B T H W C"], index: Num[np.ndarray, " B"], seed: int) -> Corners:
        """Random places, each clip's from (seed, index)."""
        room = [frames.shape[axis + 2] - self.pattern.shape[axis] + 1 for axis in (0, 1)]
        return np.array([np.random.default_rng((seed, int(place))).integers(0, room) for place in index])


def universal_patch(
    model: Model,
    clean: Raw,
    label: Num[np.ndarray, " B"],
    area: float,
    valid: Valid,
    *,
    modality: str = "video",
    box: Box = BOX,
    target: int | None = None,
    steps: int = 200,
    batch: int = 32,
    seed: int = 0,
) -> UniversalPatch:
    """Adversarial patch by expectation over its place (Brown et al. 2017; Athalye et al. 2018).

        patch <- clip( patch + (2.5 / steps) (high - low) sign( sum_b grad f_b(x_b with the patch at a random place) ) )

    f = min(CE, 9) of the label, or -CE of the target class. Of the transformations of the papers only the place, since
    frames are not printed and filmed.

    Args:
      clean, label, valid: as of ``Adversary``.
      area: share of the frame, such as 0.01, 0.02, 0.05; the side is sqrt(area H W), rounded.
      target: class that clips are to be taken for; None for any but their own.
    """
    frames = clean[modality]
    height, width, channels = frames.shape[2:]
    side = min(max(round(math.sqrt(area * height * width)), 1), height, width)
    low, high = box[modality]
    random = np.random.default_rng(seed)
    pattern = jnp.asarray(random.uniform(low, high, (side, side, channels)), jnp.float32)
    there = valid.get(modality, np.ones(frames.shape[:2], bool))
    aim = np.asarray(label if target is None else np.full(len(label), target), np.int32)
    program = compiled(functools.partial(_repaint, modality, (low, high), 2.5 / steps, target is not None))
    for chosen in _random_batches(len(label), batch, steps, seed):
        corners = random.integers(0, (height - side + 1, width - side + 1), (len(chosen), 2))
        rows = jax.tree.map(lambda x, of=chosen: np.asarray(x)[of], (dict(clean), there, aim))
        pattern = program(_partial(model), pattern, corners, rows)
    return UniversalPatch(np.asarray(pattern), modality)


def _repaint(
    modality: str, box: tuple[float, float], size: float, targeted: bool, model: Model, pattern: Array,
    corners: Array, rows: tuple[dict, Array, Array],
) -> Array:  # fmt: skip
    clean, valid, label = rows

    def total(pattern: Array) -> Array:
        values = {**clean, modality: _placed(pattern, clean[modality], corners, valid)}
        logits = model(values).astype(jnp.float32)
        return (-cross_entropy(logits, label) if targeted else _clipped(label)(logits)).sum()

    low, high = box
    return jnp.clip(pattern + size * (high - low) * jnp.sign(jax.grad(total)(pattern)), low, high)


def _placed(
    pattern: Float[Array, "h w C"],
    frames: Float[Array, "B T H W C"],
    corners: Int[Array, "B 2"],
    valid: Bool[Array, "B T"],
) -> Float[Array, "B T H W C"]:
    def one(clip: Array, corner: Array) -> Array:
        block = jnp.broadcast_to(pattern, (len(clip), *pattern.shape))
        return jax.lax.dynamic_update_slice(clip, block, (0, corner[0], corner[1], 0))

    return jnp.where(beside(valid, frames), jax.vmap(one)(frames, corners), frames)


def _clipped(label: Array) -> Callable[[Array], Array]:
    return lambda logits: jnp.minimum(cross_entropy(logits, label), MOST_LOSS)


def _partial(model: Model) -> jax.tree_util.Partial:
    return model if isinstance(model, jax.tree_util.Partial) else jax.tree_util.Partial(model)


def _random_batches(rows: int, size: int, number: int, seed: int) -> Iterator[np.ndarray]:
    """So many batches; every row comes once before any comes again."""
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(rows) for _ in range(math.ceil(size * number / rows))])
    yield from order[: size * number].reshape(number, size)
