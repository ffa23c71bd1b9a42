"""A clip as the page shows it: frames with the cells that count, the sound's envelope with the times that count, and
below it what share of the saliency each modality has over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from avjax.diagnostics import figures
from avjax.diagnostics.diagnosis.result import ShownClip

# Fainter cells than this share of the strongest are not drawn: a tint over everything would say nothing.
FAINTEST = 0.12


def shown(clip: ShownClip) -> dict[str, Any]:
    """What the template needs of a clip."""
    return {
        "name": clip.name,
        "label": clip.label,
        "predicted": clip.predicted,
        "confidence": clip.confidence,
        "right": clip.label == clip.predicted,
        "frames": _frames(clip),
        "coarse": clip.frames is not None and clip.frames.shape[1] <= 48,
        "wave": "" if clip.envelope is None else _wave(clip.envelope),
        "times": [] if clip.heard is None else _times(clip.heard),
        "ribbon": [] if clip.allocation is None or clip.middles is None else _ribbon(clip),
        "ticks": figures.ticks(clip.seconds),
    }


def _frames(clip: ShownClip) -> list[dict[str, Any]]:
    """Each frame as an image, with the cells of the time at which it stands."""
    if clip.frames is None:
        return []
    strengths = None if clip.seen is None or not clip.seen.size else _strengths(clip.seen.ravel())
    found = []
    for place, frame in enumerate(clip.frames):
        cells, grid = [], (1, 1)
        if strengths is not None:
            steps, height, width = clip.seen.shape
            grid, step = (width, height), int((place + 0.5) / len(clip.frames) * steps)
            own = np.asarray(strengths).reshape(clip.seen.shape)[step]
            cells = [(k % width, k // width, strength) for k, strength in enumerate(own.ravel().tolist()) if strength]
        found.append({"image": figures.png(figures.shrink(frame)), "grid": grid, "cells": cells})
    return found


def _times(heard: Float[np.ndarray, " T"]) -> list[tuple[float, float, float]]:
    """(place, width, strength) of the times that count, along an axis of 100."""
    width = 100 / max(len(heard), 1)
    return [(k * width, width, strength) for k, strength in enumerate(_strengths(heard)) if strength]


def _ribbon(clip: ShownClip) -> list[tuple[int, str]]:
    """(place of the modality, outline) of each share of the saliency, one above the other, over the clip's time."""
    mass = np.clip(np.nan_to_num(np.asarray(clip.allocation, np.float64)), 0, None)
    total = mass.sum(axis=1, keepdims=True)
    shares = mass / np.where(total > 0, total, 1)
    # The first and the last window reach to the clip's ends.
    at = [0.0, *(100 * np.clip(clip.middles / max(clip.seconds, 1e-9), 0, 1)), 100.0]
    below, found = np.zeros(len(at)), []
    for place, own in enumerate(shares.T):
        above = below + 100 * np.concatenate([own[:1], own, own[-1:]])
        outline = [f"{x:.1f} {100 - y:.1f}" for x, y in zip(at, above, strict=True)]
        outline += [f"{x:.1f} {100 - y:.1f}" for x, y in zip(at[::-1], below[::-1], strict=True)]
        found.append((place, "M" + "L".join(outline) + "Z"))
        below = above
    return found


def _strengths(saliency: Float[np.ndarray, " N"]) -> list[float]:
    """Of the strongest; 0 where it is too faint to show, or no number."""
    saliency = np.nan_to_num(np.asarray(saliency, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    shares = saliency / max(float(saliency.max(initial=0.0)), 1e-30)
    return np.where(shares < FAINTEST, 0.0, shares).tolist()


def _wave(envelope: Float[np.ndarray, "P 2"]) -> str:
    """The outline of the sound, 100 wide and high; a quiet clip is drawn as high as a loud one."""
    found = np.nan_to_num(np.asarray(envelope, np.float64))
    height = 47 / max(float(np.abs(found).max(initial=0.0)), 1e-6)
    across = np.linspace(0, 100, len(found))
    upper = [f"{x:.1f} {50 - height * y:.1f}" for x, y in zip(across, found[:, 1], strict=True)]
    lower = [f"{x:.1f} {50 - height * y:.1f}" for x, y in zip(across, found[:, 0], strict=True)]
    return "M" + "L".join(upper + lower[::-1]) + "Z"
