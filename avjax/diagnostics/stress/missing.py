"""Missing modalities: some clips without one, and clips that lack some of its steps.

What is left of the model's performance is for ``consistency.robustness`` to say; here the clips are made, and the
curve over the missing rate summed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Num

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.fills import Fill, Moments, absent, draws, generator
from avjax.diagnostics.measured import Undefined

RATES = tuple(step / 10 for step in range(11))
SHARES = (0.25, 0.5, 0.75)
# A spectrogram's frame is there only where all its samples are, so that holes of single samples would leave none.
CHUNK_SECONDS = 0.1

Pattern = Literal["block", "random"]


def lacking(
    clips: Clips, modalities: Sequence[str], rate: float, *, seed: int = 0
) -> dict[str, Bool[np.ndarray, " B"]]:
    """Which clips lack each modality at a missing rate: round(rate N) clips, each of which lacks one.

    Several modalities take turns, so that of two each is missing in half of the clips. At a higher rate the clips of a
    lower one lack the same as there.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a missing rate lies in [0, 1]; got {rate}")
    if not modalities:
        raise ValueError("no modality to leave out")
    draw = draws(clips, "missing", seed=seed)
    # Two rows of one record have equal draws: then the earlier goes first.
    place = np.empty(len(clips), int)
    place[np.argsort(draw, kind="stable")] = np.arange(len(clips))
    chosen = place < round(rate * len(clips))
    return {name: chosen & (place % len(modalities) == turn) for turn, name in enumerate(modalities)}


def missing(
    clips: Clips,
    modalities: Sequence[str],
    rate: float,
    fill: Fill,
    *,
    seed: int = 0,
    of: dict[str, Moments] | None = None,
) -> Clips:
    """The clips, of which a share ``rate`` lacks one of the modalities: ``lacking``.

    Args:
      of: modality -> the data set's moments, for the fills mean and noise.
    """
    for name, rows in lacking(clips, modalities, rate, seed=seed).items():
        steps = np.broadcast_to(rows[:, None], clips.streams[name].valid.shape)
        clips = absent(clips, name, fill, seed=seed, of=(of or {}).get(name), steps=steps)
    return clips


def frames_missing(
    clips: Clips,
    modality: str,
    share: float,
    pattern: Pattern,
    fill: Fill = "drop",
    *,
    seed: int = 0,
    of: Moments | None = None,
) -> Clips:
    """The clips, each without a share of the valid steps of a modality.

    Args:
      pattern: block, one run of steps at a random place; random, single steps, of sound in chunks of 0.1 s.
      of: the data set's moments, for the fills mean and noise.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies in [0, 1]; got {share}")
    stream = clips.streams[modality]
    chunk = max(round(CHUNK_SECONDS * stream.rate), 1) if stream.values.ndim == 2 else 1
    steps = np.zeros(stream.valid.shape, bool)
    for row, index in enumerate(clips.index):
        there = np.flatnonzero(stream.valid[row])
        random = generator(seed, index, f"{modality} {pattern}")
        # Chunks of what is valid: the last may be shorter.
        chunks = -(-len(there) // chunk)
        count = round(share * chunks)
        if pattern == "block":
            first = random.integers(0, chunks - count + 1)
            chosen = np.arange(first, first + count)
        else:
            chosen = random.permutation(chunks)[:count]
        steps[row, there[np.isin(np.arange(len(there)) // chunk, chosen)]] = True
    return absent(clips, modality, fill, seed=seed, of=of, steps=steps)


def area(rates: Sequence[float], performance: Num[np.ndarray, " R"]) -> float:
    """Mean of performance over the missing rate, by trapezoids: int A(eta) d eta / (eta_last - eta_first), ours.

    In the performance's range, higher is better; of rates from 0 to 1 (A(0) + A(1)) / 2 where A falls in a line.
    """
    if len(rates) < 2 or not (np.diff(rates) > 0).all():
        raise Undefined("a curve over the missing rate needs two rates, rising")
    return float(np.trapezoid(np.asarray(performance, np.float64), rates) / (rates[-1] - rates[0]))
