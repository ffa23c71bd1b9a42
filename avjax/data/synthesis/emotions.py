"""What each clip of the demo corpus says by ear and by eye, and what an ideal observer can make of it.

Eight emotions, each a pair of a heard level (arousal, four levels) and a seen level (expression, four levels). Every
level of either modality belongs to exactly two emotions, so an ideal listener or an ideal viewer is right half of the
time, and both together always:

    ==========  =====  =====  =====  =====
    arousal     smile  droop  frown  wide
    ==========  =====  =====  =====  =====
    0 subdued   calm   sad
    1 level            neutral disgust
    2 lively    happy                surprised
    3 agitated                angry  fearful
    ==========  =====  =====  =====  =====
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from avjax.data.synthesis.face import EXPRESSION, EXPRESSIONS

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SEEN = tuple(EXPRESSIONS)
LEVELS = 4
PAIRS = {
    "calm": (0, "smile"),
    "sad": (0, "droop"),
    "neutral": (1, "droop"),
    "disgust": (1, "frown"),
    "happy": (2, "smile"),
    "surprised": (2, "wide"),
    "angry": (3, "frown"),
    "fearful": (3, "wide"),
}
# One emotion a level in both modalities: all that is left at redundancy 1.
REDUNDANT = ("sad", "disgust", "happy", "fearful")
CLASSES = {
    "none": ("emotion", EMOTIONS),
    "congruence": ("congruence", ("incongruent", "congruent")),
    "order": ("order", ("sound_first", "picture_first")),
}
STRENGTHS = (0.9, 1.1)  # normal and strong intensity
_PROTOTYPES = np.array(list(EXPRESSIONS.values()))  # [4, 4]
_HEARD = np.array([PAIRS[emotion][0] for emotion in EMOTIONS])
_SEEN = np.array([SEEN.index(PAIRS[emotion][1]) for emotion in EMOTIONS])
_LEAST_JITTER = 1e-3  # keeps densities finite at jitter 0


@dataclasses.dataclass(frozen=True)
class Knobs:
    """What the demo corpus is made from; equal knobs make equal files.

    Attributes:
      seed: of every draw.
      actors: how many of RAVDESS's 24; with fewer, each split loses some.
      clips_per_actor: 40 gives 960 clips of 24 actors.
      heard_informativeness: probability that the heard level is the label's own and not drawn at random.
      seen_informativeness: the same for the seen level.
      redundancy: 0: either modality leaves two emotions open; 1: only four emotions remain, which either tells apart.
      interaction: "none": the label is the emotion. "congruence": the label is whether heard and seen level are of the
        same number. "order": the label is which of sound and picture comes first, by 0.16 to 0.32 s. In the last two
        neither modality alone tells anything.
      missing_rate: share of the files that lack sound or picture, half of them each.
      misalignment: standard deviation in seconds of the sound's delay against the picture.
      heard_jitter: standard deviation of the arousal around its level, in levels.
      seen_jitter: standard deviation of each parameter of the expression, which run from -1 to 1.
      appearance_range: 0: all actors look and sound alike but for their sex; 1: the whole range of skin, hair,
        background, shape and voice. Faces of unseen actors can be read only where training saw faces like them.
      pixels: height and width of the picture.
    """

    seed: int = 0
    actors: int = 24
    clips_per_actor: int = 40
    heard_informativeness: float = 1.0
    seen_informativeness: float = 1.0
    redundancy: float = 0.0
    interaction: Literal["none", "congruence", "order"] = "none"
    missing_rate: float = 0.0
    misalignment: float = 0.0
    heard_jitter: float = 0.12
    seen_jitter: float = 0.12
    appearance_range: float = 0.5
    pixels: int = 64

    def __post_init__(self) -> None:
        for name in ("heard_informativeness", "seen_informativeness", "redundancy", "missing_rate", "appearance_range"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it is a share, from 0 to 1")
        for name in ("misalignment", "heard_jitter", "seen_jitter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a standard deviation, 0 or more")
        if self.interaction not in CLASSES:
            raise ValueError(f"interaction is {self.interaction!r}; choose one of {', '.join(CLASSES)}")
        if not 3 <= self.actors <= 24:
            raise ValueError(f"actors is {self.actors}; three splits need 3 or more, and RAVDESS's layout has 24")
        if not 1 <= self.clips_per_actor <= 1000:
            raise ValueError(f"clips_per_actor is {self.clips_per_actor}; choose 1 to 1000")
        if self.pixels < 32 or self.pixels % 2:
            raise ValueError(f"pixels is {self.pixels}; choose an even number from 32 on")
        if self.interaction != "none" and self.redundancy:
            raise ValueError("redundancy is about emotions: leave it 0 where interaction is on")
        if self.interaction == "order" and self.misalignment:
            raise ValueError("interaction 'order' sets the delay itself: leave misalignment 0")

    @property
    def head(self) -> str:
        return CLASSES[self.interaction][0]

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES[self.interaction][1]


@dataclasses.dataclass(frozen=True)
class Cues:
    """The true cues of n clips.

    Attributes:
      heard_level, seen_level: [n] int, the levels that are performed, informative or not.
      strong: [n] int, 0 normal or 1 strong intensity.
      arousal: [n], the heard cue: where speech lies from 0 (subdued) to 3 (agitated).
      expression: [n, 4], the seen cue: the face's parameters.
    """

    heard_level: np.ndarray
    seen_level: np.ndarray
    strong: np.ndarray
    arousal: np.ndarray
    expression: np.ndarray


def draw_labels(knobs: Knobs, count: int, rng: np.random.Generator, first: int = 0) -> np.ndarray:
    """Labels [count], as even as can be, in random order; ``first`` carries the evenness on from actor to actor."""
    labels = rng.permutation((first + np.arange(count)) % len(knobs.class_names))
    redundant = rng.random(count) < knobs.redundancy
    if knobs.interaction != "none":
        return labels
    alike = np.array([next(EMOTIONS.index(e) for e in REDUNDANT if PAIRS[e][0] == level) for level in range(LEVELS)])
    return np.where(redundant, alike[_HEARD[labels]], labels)


def draw_cues(knobs: Knobs, labels: np.ndarray, rng: np.random.Generator) -> Cues:
    """What clips with these labels perform."""
    count = len(labels)
    if knobs.interaction == "none":
        heard, seen = _HEARD[labels], _SEEN[labels]
    else:
        heard, other = rng.integers(LEVELS, size=(2, count))
        seen = other
        if knobs.interaction == "congruence":
            seen = np.where(labels == 1, heard, (heard + rng.integers(1, LEVELS, count)) % LEVELS)
    heard = np.where(rng.random(count) < knobs.heard_informativeness, heard, rng.integers(LEVELS, size=count))
    seen = np.where(rng.random(count) < knobs.seen_informativeness, seen, rng.integers(LEVELS, size=count))
    strong = rng.integers(2, size=count)
    strength = np.asarray(STRENGTHS)[strong]
    arousal = _arousal_of(heard, strength) + knobs.heard_jitter * rng.standard_normal(count)
    expression = _PROTOTYPES[seen] * strength[:, None]
    expression = expression + knobs.seen_jitter * rng.standard_normal(expression.shape)
    return Cues(heard, seen, strong, arousal, expression)


def posteriors(
    knobs: Knobs, arousal: np.ndarray, expression: np.ndarray, delay: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Probability of each class given the true cues: of an ideal listener, an ideal viewer, and one who does both.

    Args:
      knobs: of the corpus that the cues are from.
      arousal: [n].
      expression: [n, 4].
      delay: [n] seconds by which the sound comes after the picture; for interaction "order" only.

    Returns:
      "audio", "video" and "both", each [n, K]. Exact, by Bayes' rule; intensity is not known to the observer.
    """
    if knobs.interaction == "order":
        even = np.full((len(arousal), 2), 0.5)
        if delay is None:
            raise ValueError("interaction 'order' is about the delay: hand it in")
        return {"audio": even, "video": even, "both": np.stack([delay < 0, delay >= 0], axis=1).astype(float)}
    prior, pairs = _prior(knobs)
    strengths = np.asarray(STRENGTHS)[:, None]
    levels = np.arange(LEVELS)
    heard = _gaussian(arousal[:, None, None, None] - _arousal_of(levels, strengths)[..., None], knobs.heard_jitter)
    seen = _gaussian(expression[:, None, None] - strengths[..., None] * _PROTOTYPES, knobs.seen_jitter)
    heard = heard @ _channel(knobs.heard_informativeness)  # [n, strength, the label's own level]
    seen = seen @ _channel(knobs.seen_informativeness)
    weights = prior[:, None, None] * pairs  # [K, heard, seen]
    found = {
        "audio": np.einsum("nsh,khv->nk", heard, weights),
        "video": np.einsum("nsv,khv->nk", seen, weights),
        "both": np.einsum("nsh,nsv,khv->nk", heard, seen, weights),
    }
    return {name: value / value.sum(1, keepdims=True) for name, value in found.items()}


def ceilings(knobs: Knobs, draws: int = 20_000) -> dict[str, float]:
    """Accuracy of an ideal observer of the true cues, over the corpora that these knobs make.

    For each draw of cues Bayes' rule is exact (``posteriors``); the mean over cues is a Monte Carlo estimate over
    ``draws`` fresh clips (standard error below 0.004), the same for equal knobs. A missing modality is counted: without
    it the observer guesses the likeliest class.

    Returns:
      "audio", "video" and "both": expected accuracy.
    """
    rng = np.random.default_rng([knobs.seed, 2**31])
    labels = draw_labels(knobs, draws, rng)
    cues = draw_cues(knobs, labels, rng)
    delay = np.where(labels == 1, 0.2, -0.2)
    guess = float(_prior(knobs)[0].max())
    # The mean of the highest posterior is the accuracy that Bayes' rule expects, with less noise than counting hits.
    best = {k: float(p.max(1).mean()) for k, p in posteriors(knobs, cues.arousal, cues.expression, delay).items()}
    lost = knobs.missing_rate / 2
    alone = best if knobs.interaction == "none" else {"audio": guess, "video": guess}
    return {
        "audio": (1 - lost) * best["audio"] + lost * guess,
        "video": (1 - lost) * best["video"] + lost * guess,
        "both": (1 - 2 * lost) * best["both"] + lost * (alone["audio"] + alone["video"]),
    }


def attained(knobs: Knobs, labels: np.ndarray, cues: list[Mapping[str, float]]) -> dict[str, float]:
    """Share of these very clips that the ideal observer gets right from their recorded cues (``Clip.cues``)."""
    arousal = np.array([clip["arousal"] for clip in cues])
    expression = np.array([[clip[name] for name in EXPRESSION] for clip in cues])
    found = posteriors(knobs, arousal, expression, np.array([clip["delay"] for clip in cues]))
    heard, seen = (np.array([bool(clip[name]) for clip in cues]) for name in ("has_audio", "has_video"))
    prior = _prior(knobs)[0]
    audio, video = (np.where(here[:, None], found[k], prior) for k, here in (("audio", heard), ("video", seen)))
    both = np.where((heard & seen)[:, None], found["both"], np.where(heard[:, None], audio, video))
    found = {"audio": audio, "video": video, "both": both}
    return {name: float(_shares(value, labels).mean()) for name, value in found.items()}


def _shares(posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 where the likeliest class is the label; equally likely classes are a guess, and count in equal shares."""
    best = posterior >= posterior.max(1, keepdims=True) - 1e-9
    return best[np.arange(len(labels)), labels] / best.sum(1)


def _arousal_of(level: np.ndarray, strength: np.ndarray) -> np.ndarray:
    middle = (LEVELS - 1) / 2
    return middle + (level - middle) * strength


def _gaussian(offsets: np.ndarray, jitter: float) -> np.ndarray:
    """exp of the log density over the last axis, but for a constant; underflow cannot leave a row all zero."""
    scale = max(jitter, _LEAST_JITTER)
    exponent = -0.5 * np.sum((offsets / scale) ** 2, axis=-1)
    return np.exp(exponent - exponent.max((1, 2), keepdims=True))


def _channel(informativeness: float) -> np.ndarray:
    """[performed level, own level]: probability of performing a level, given the label's own."""
    return informativeness * np.eye(LEVELS) + (1 - informativeness) / LEVELS


def _prior(knobs: Knobs) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each class [K], and of each pair of levels given the class [K, heard, seen]."""
    if knobs.interaction == "none":
        pairs = np.zeros((len(EMOTIONS), LEVELS, LEVELS))
        pairs[np.arange(len(EMOTIONS)), _HEARD, _SEEN] = 1
        prior = np.full(len(EMOTIONS), (1 - knobs.redundancy) / len(EMOTIONS))
        prior[[EMOTIONS.index(name) for name in REDUNDANT]] += knobs.redundancy / LEVELS
        return prior, pairs
    even = np.full((LEVELS, LEVELS), 1 / LEVELS**2)
    same = np.eye(LEVELS) / LEVELS
    different = (1 - np.eye(LEVELS)) / (LEVELS * (LEVELS - 1))
    return np.full(2, 0.5), np.stack([different, same] if knobs.interaction == "congruence" else [even, even])
