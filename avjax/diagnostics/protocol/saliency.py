"""Saliency states of clips: the cells that all axes of drift share, from two sources.

Version 1: a state is a distribution over 16 cells of sound (4 of frequency, 4 of time) and 49 of the pictures (7 by 7,
over all frames). Its source is |x df_c/dx| of the features behind the front end, of the class that the model predicts
for the clean clip; or attention rollout, of the tokens before the first attention.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.diagnosis.arrays import ATTENDED
from avjax.diagnostics.drift import grid
from avjax.diagnostics.drift.warps import Warp
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Said

STATE = "gradient x input, 16 + 49 cells"
ROLLOUT = f"{ATTENDED}, 16 + 49 cells"
FLOOR_SEEDS = 4
DITHER_DB, PIXEL = 60.0, 1 / 255
# Warps are carried out on cells so much finer on each side: then what falls across a border is little.
FINER, FINER_TIME = 4, 16

Masses = Mapping[str, Float[np.ndarray, "N ..."]]
"""Modality -> saliency: [N, T, H, W] of pictures, [N, T, F] of a spectrogram, [N, T] of what has time alone."""


class Cells(NamedTuple):
    """The cells of a modality: so many rows and columns.

    Attributes:
      axes: "picture" is height and width, "time" whatever the rows are, and time along the columns.
      finer: how many of the fine rows and columns go to one.
    """

    modality: str
    axes: Literal["picture", "time"]
    coarse: tuple[int, int]
    finer: tuple[int, int]

    @property
    def fine(self) -> tuple[int, int]:
        """Rows and columns of the fine grid."""
        return self.coarse[0] * self.finer[0], self.coarse[1] * self.finer[1]


@dataclasses.dataclass(frozen=True, eq=False)
class States:
    """Saliency on the common cells.

    Attributes:
      fine: [N, K], each row a distribution over the fine cells of all modalities.
      cells: of each modality, in order.
    """

    fine: Float[np.ndarray, "N K"]
    cells: tuple[Cells, ...]

    @functools.cached_property
    def pi(self) -> Float[np.ndarray, "N J"]:
        """Distributions over the common cells."""
        return pooled(self.fine, self.cells)

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """Modality of each common cell."""
        return grid.cells([one.modality for one in self.cells], [int(np.prod(one.coarse)) for one in self.cells])

    def mass(self, modality: str) -> Float[np.ndarray, " N"]:
        return self.pi[:, [group == modality for group in self.groups]].sum(axis=1)

    def against(self, moved: States, warps: Mapping[str, Warp]) -> tuple[grid.Pair, grid.Lost]:
        """``grid.against_warped`` of these and the states of the clips under the warp, on the common cells."""
        target, inside, begin = [], [], 0
        for one in self.cells:
            count = int(np.prod(one.fine))
            warp = warps.get(one.modality)
            still = np.broadcast_to(np.arange(count), (len(self.fine), count))
            own = still if warp is None else warp.target
            target.append(np.where(own >= 0, own + begin, -1))
            inside.append(np.ones_like(still, bool) if warp is None else warp.inside)
            begin += count
        maps = np.concatenate(target, axis=1), np.concatenate(inside, axis=1)
        pair, lost = grid.against_warped(self.fine, moved.fine, *maps)
        return tuple(pooled(side, self.cells) for side in pair), lost


def pooled(fine: Float[np.ndarray, "N K"], cells: tuple[Cells, ...]) -> Float[np.ndarray, "N J"]:
    """The mass of fine cells on the common ones."""
    parts, begin = [], 0
    for one in cells:
        count = int(np.prod(one.fine))
        (rows, columns), (down, right) = one.coarse, one.finer
        part = fine[:, begin : begin + count].reshape(-1, rows, down, columns, right)
        parts.append(part.sum(axis=(2, 4)).reshape(len(fine), -1))
        begin += count
    return np.concatenate(parts, axis=1)


def on_cells(masses: Masses) -> States:
    """States of saliency; Undefined where a clip has none at all."""
    parts, cells = [], []
    for modality, amounts in masses.items():
        mass = np.asarray(amounts, np.float64)
        if mass.ndim == 4:
            mass = mass.sum(axis=1)
            cells.append(Cells(modality, "picture", grid.VISUAL_GRID, (FINER, FINER)))
        elif mass.ndim == 3:
            mass = mass.swapaxes(1, 2)
            cells.append(Cells(modality, "time", grid.AUDIO_GRID, (1, FINER_TIME)))
        else:
            mass = mass[:, None]
            cells.append(Cells(modality, "time", (1, grid.AUDIO_GRID[0] * grid.AUDIO_GRID[1]), (1, FINER)))
        parts.append(grid.pooled(mass, cells[-1].fine).reshape(len(mass), -1))
    return States(grid.state(parts), tuple(cells))


def states(probe: ModelProbe, clips: Clips, target: np.ndarray) -> tuple[States, Said]:
    """Gradient x input of clips on the common cells, and what the model says of them.

    Undefined where a clip has no saliency at all.
    """
    found, logits = probe.saliency(clips, target)
    return on_cells({modality: found[modality] for modality in probe.modalities}), Said(logits, clips.label)


def re_encoded(clips: Clips, *, seed: int) -> Clips:
    """The clips as changed by what nobody hears or sees: dither 60 dB below the sound, noise of 1/255 in pictures."""
    changed = {}
    for modality, stream in clips.streams.items():
        values = stream.values
        random = np.random.default_rng((seed, len(modality)))
        if values.ndim == 2:
            power = np.sqrt(np.mean(values**2, axis=1, keepdims=True))
            noisy = values + random.standard_normal(values.shape, np.float32) * power * 10 ** (-DITHER_DB / 20)
            changed[modality] = stream.replace(values=np.clip(noisy, -1, 1).astype(np.float32))
        elif values.ndim == 5:
            noisy = values + random.uniform(-PIXEL, PIXEL, values.shape).astype(np.float32)
            changed[modality] = stream.replace(values=np.clip(noisy, 0, 1))
    return clips.replace(changed)
