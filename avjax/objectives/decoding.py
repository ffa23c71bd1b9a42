"""From the probabilities of tokens at every step to transcripts: greedy, and prefix beam search. NumPy on the host.

Token 0 is the blank of CTC, and to a decoder the end of the sentence, as in ``avjax.objectives.sequence``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

Tokens = tuple[int, ...]
# From a prefix to the log probability of each next token, the end (0) among them: [K].
Decoder = Callable[[Tokens], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A transcript and its score, in nats; with CTC alone the log probability of the paths that were kept."""

    tokens: Tokens
    score: float


def greedy(probabilities: Float[np.ndarray, "B T K"], valid: Bool[np.ndarray, "B T"] | None = None) -> list[Tokens]:
    """The likeliest token of every valid step, repetitions taken together, then without blanks (Graves et al. 2006)."""
    best = probabilities.argmax(axis=-1)
    valid = np.ones(best.shape, bool) if valid is None else valid
    return [collapse(row[there].tolist()) for row, there in zip(best, valid, strict=True)]


def collapse(path: Sequence[int]) -> Tokens:
    """The transcript of a path: repetitions taken together, then without blanks."""
    return tuple(int(token) for at, token in enumerate(path) if token and (at == 0 or path[at - 1] != token))


def prefix_beam_search(
    probabilities: Float[np.ndarray, "T K"],
    *,
    beam: int = 35,
    decoder: Decoder | None = None,
    ctc: float = 0.1,
) -> list[Hypothesis]:
    """The best transcripts of one clip, best first (Hannun et al. 2014; joint scores as in Watanabe et al. 2017).

    Sums over the paths of a prefix l, which end in a blank (b) or in its last token (n):

        b_t(l) = p_t(blank) (b_{t-1}(l) + n_{t-1}(l))
        n_t(l) = p_t(l_end) (n_{t-1}(l) + b_{t-1}(l') + [l_end differs from the one before] n_{t-1}(l'))

    where l' is l without its end. With a decoder a whole transcript's score is
    ctc * log p_CTC + (1 - ctc) * log p_decoder, and a prefix is ranked by the same of what it has so far.

    Args:
      probabilities: of the valid steps of one clip.
      beam: prefixes that are kept at each step.
      decoder: log probabilities of the next token, asked once a prefix; none for CTC alone.
      ctc: share of CTC in the score with a decoder.
    """
    with np.errstate(divide="ignore"):
        log = np.log(np.asarray(probabilities, np.float64))
    share = 1.0 if decoder is None else ctc
    said = _Said(decoder if share < 1 else None)

    def score(prefix: Tokens, ends: tuple[float, float]) -> float:
        return share * float(np.logaddexp(*ends)) + (1 - share) * said(prefix)

    # Prefix -> log probability of its paths that end in a blank, and of those that end in its last token.
    prefixes: dict[Tokens, tuple[float, float]] = {(): (0.0, -np.inf)}
    for step in log:
        likely = (np.flatnonzero(step[1:] > -np.inf) + 1).tolist()
        grown: dict[Tokens, list[float]] = {}
        for prefix, (blank, token) in prefixes.items():
            either = np.logaddexp(blank, token)
            _add(grown, prefix, 0, either + step[0])
            if prefix:
                _add(grown, prefix, 1, token + step[prefix[-1]])
            for after in likely:
                # The same token again is a new one only behind a blank.
                before = blank if prefix and prefix[-1] == after else either
                _add(grown, (*prefix, after), 1, before + step[after])
        possible = {prefix: (b, n) for prefix, (b, n) in grown.items() if np.logaddexp(b, n) > -np.inf}
        best = sorted(possible, key=lambda prefix: (-score(prefix, possible[prefix]), prefix))[:beam]
        prefixes = {prefix: possible[prefix] for prefix in best}
    whole = [
        Hypothesis(prefix, score(prefix, ends) + (1 - share) * said.end(prefix)) for prefix, ends in prefixes.items()
    ]
    return sorted(whole, key=lambda each: (-each.score, each.tokens))


class _Said:
    """Log probability of prefixes by a decoder, each asked once; 0 without a decoder."""

    def __init__(self, decoder: Decoder | None):
        self._decoder = decoder
        self._next: dict[Tokens, np.ndarray] = {}
        self._sums: dict[Tokens, float] = {(): 0.0}

    def __call__(self, prefix: Tokens) -> float:
        if self._decoder is None:
            return 0.0
        if prefix not in self._sums:
            self._sums[prefix] = self(prefix[:-1]) + float(self._following(prefix[:-1])[prefix[-1]])
        return self._sums[prefix]

    def end(self, prefix: Tokens) -> float:
        return 0.0 if self._decoder is None else float(self._following(prefix)[0])

    def _following(self, prefix: Tokens) -> np.ndarray:
        if prefix not in self._next:
            self._next[prefix] = np.asarray(self._decoder(prefix), np.float64)
        return self._next[prefix]


def _add(grown: dict[Tokens, list[float]], prefix: Tokens, which: int, log: float) -> None:
    ends = grown.setdefault(prefix, [-np.inf, -np.inf])
    ends[which] = np.logaddexp(ends[which], log)
