"""Where the content of each cell goes under a warp of the input: maps of cells for ``grid.against_warped``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Points = Float[np.ndarray, "N K"]


class Warp(NamedTuple):
    """Of the cells of one modality, row by row of its grid.

    Attributes:
      target: the cell in which the content of each is after the warp; -1 where it is out of view.
      inside: whether what each cell shows after the warp was in view before.
    """

    target: Int[np.ndarray, "N K"]
    inside: Bool[np.ndarray, "N K"]


def turned(angle: Float[np.ndarray, " N"], grid: tuple[int, int], frame: tuple[int, int]) -> Warp:
    """Of pictures whose content turns about the middle by so many radians, from the rows' axis to the columns'.

    Args:
      frame: height and width in pixels: cells need not be square.
    """
    middle = [((np.arange(count) + 0.5) / count - 0.5) * side for count, side in zip(grid, frame, strict=True)]
    down, right = (axis.reshape(1, -1) for axis in np.meshgrid(*middle, indexing="ij"))

    def cell(angle: Float[np.ndarray, "N 1"]) -> Int[np.ndarray, "N K"]:
        # A point at (down, right) = r (cos, sin) comes to r (cos, sin)(. + angle).
        row = np.floor(((np.cos(angle) * down - np.sin(angle) * right) / frame[0] + 0.5) * grid[0]).astype(int)
        column = np.floor(((np.sin(angle) * down + np.cos(angle) * right) / frame[1] + 0.5) * grid[1]).astype(int)
        view = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
        return np.where(view, row * grid[1] + column, -1)

    angle = np.asarray(angle, np.float64)[:, None]
    return Warp(cell(angle), cell(-angle) >= 0)


def late(share: Float[np.ndarray, " N"], grid: tuple[int, int]) -> Warp:
    """Of sound that comes later by a share of the clip's length, earlier below 0. The grid is frequency and time."""
    share = np.asarray(share, np.float64)[:, None]
    return _in_time(grid, lambda time: time + share, lambda time: time - share)


def sped(
    factor: Float[np.ndarray, " N"],
    begin: Float[np.ndarray, " N"],
    end: Float[np.ndarray, " N"],
    grid: tuple[int, int],
) -> Warp:
    """Of sound played at ``factor`` times its speed from where it begins on.

    Args:
      begin, end: of what is there, as shares of the clip's length: from behind its end nothing comes.
    """
    factor, begin, end = (np.asarray(one, np.float64)[:, None] for one in (factor, begin, end))

    def source(time: Points) -> Points:
        before = begin + (time - begin) * factor
        return np.where((time < begin) | (before >= end), -1, before)

    return _in_time(grid, lambda time: begin + (time - begin) / factor, source)


def _in_time(grid: tuple[int, int], ahead: Callable[[Points], Points], back: Callable[[Points], Points]) -> Warp:
    """Every frequency alike; both functions are of shares of the clip's length."""
    rows, steps = grid
    middle = (np.arange(steps)[None] + 0.5) / steps

    def step(time: Points) -> Int[np.ndarray, "N T"]:
        # Halves are exact in the middle of a step, and must not fall either way by rounding.
        found = np.floor(time * steps + 1e-9).astype(int)
        return np.where((found >= 0) & (found < steps), found, -1)

    after, before = step(ahead(middle)), step(back(middle))
    row = np.arange(rows)[:, None] * steps
    target = np.where(after[:, None] >= 0, row + after[:, None], -1)
    inside = np.broadcast_to(before[:, None] >= 0, target.shape)
    return Warp(target.reshape(len(after), -1), inside.reshape(len(after), -1))
