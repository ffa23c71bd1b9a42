"""Ten models whose behaviour is known because it was planted, and what every diagnostic must say of them.

Each hears and sees eight steps of two channels: in the first lies a cue at one step, the second is empty until it is
corrupted. What a model makes of the cues is written down, nothing is trained. ``expected`` are bounds by the names
of diagnostics.md: shape.* are contributions to accuracy, mm_shap.* shares of the logit, mass.* of attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.nn.attention import attend, cross_mask
from avjax.nn.convolution import masked
from avjax.nn.encoders import hide
from avjax.streams import Batch, Output, Stream
from kernels.attention import Layout

MODALITIES = ("audio", "video")
STEPS, RATE = 8, 4.0
HEAD = "label"

Bounds = Mapping[str, tuple[float, float]]
Cues = dict[str, jnp.ndarray]


class Planted(nnx.Module):
    """A model that obeys the contract: ``decide`` makes a number of the tokens, whose sign is the class."""

    modalities = MODALITIES

    def __init__(self, decide: Callable[[dict[str, Stream]], jnp.ndarray]):
        self.decide = decide

    def __call__(self, batch: Batch, keep=None) -> Output:
        return self.fuse(self.encode(batch, keep))

    def encode(self, batch: Batch, keep=None) -> dict[str, Stream]:
        streams = {m: hide(batch.streams[m], (keep or {}).get(m)) for m in MODALITIES}
        return {m: s.replace(values=masked(jnp.asarray(s.values), jnp.asarray(s.valid))) for m, s in streams.items()}

    def fuse(self, tokens, keep=None) -> Output:
        tokens = {m: hide(tokens[m], (keep or {}).get(m)) for m in MODALITIES}
        tokens = {m: s.replace(values=masked(s.values, s.valid)) for m, s in tokens.items()}
        number = self.decide(tokens)
        return Output({HEAD: jnp.stack([-number, number], axis=-1) / 2}, tokens)


@dataclasses.dataclass(frozen=True)
class Case:
    """A planted model, its data, and bounds of what is to be found.

    Attributes:
      batch: (rng, rows) to a batch with the labels of the task.
    """

    model: Planted
    batch: Callable[[np.random.Generator, int], Batch]
    expected: Bounds


def cue(tokens: dict[str, Stream]) -> Cues:
    """The cue of each modality [B], 0 where it is missing."""
    return {m: tokens[m].values[..., 0].sum(axis=1) for m in MODALITIES}


def when(tokens: dict[str, Stream]) -> Cues:
    """The time of each cue in seconds [B]."""
    times = {m: tokens[m].start[:, None] + jnp.arange(STEPS) / RATE for m in MODALITIES}
    return {m: (tokens[m].values[..., 0] * times[m]).sum(axis=1) for m in MODALITIES}


def attended(tokens: dict[str, Stream], score: Callable[[str, jnp.ndarray], jnp.ndarray], see: Mapping[str, float]):
    """One query over all tokens: attention by ``score(modality, values) [B, N]``, values the cues times ``see``."""
    joined = {m: tokens[m].values for m in MODALITIES}
    key = jnp.concatenate([score(m, x) for m, x in joined.items()], axis=1)
    value = jnp.concatenate([see[m] * x[..., 0] for m, x in joined.items()], axis=1)
    valid = jnp.concatenate([tokens[m].valid for m in MODALITIES], axis=1)
    mask = cross_mask(Layout.of(query=1), Layout(MODALITIES, (STEPS, STEPS)), valid)
    query = jnp.ones((key.shape[0], 1, 1, 1))
    return attend(query, key[..., None, None], value[..., None, None], mask, site="decision")[:, 0, 0, 0]


def batch_of(rng: np.random.Generator, cues: Mapping[str, np.ndarray], label: np.ndarray, at=None) -> Batch:
    """Cues [B] at random steps, or at ``at``, as streams."""
    rows, streams = len(label), {}
    for m in MODALITIES:
        values = np.zeros((rows, STEPS, 2), np.float32)
        step = rng.integers(0, STEPS, rows) if at is None else at[m]
        values[np.arange(rows), step, 0] = cues[m]
        streams[m] = Stream(values, np.ones((rows, STEPS), bool), np.zeros(rows, np.float32), RATE)
    target = np.eye(2, dtype=np.float32)[label.astype(int)]
    return Batch(streams, {HEAD: target}, np.ones(rows, np.float32), np.arange(rows))


def corrupted(batch: Batch, modality: str, severity: float, rng: np.random.Generator) -> Batch:
    """Noise of this deviation in the empty channel of one modality."""
    stream = batch.streams[modality]
    values = np.array(stream.values)
    values[..., 1] += severity * rng.normal(size=values.shape[:2])
    return batch.replace(streams={**batch.streams, modality: stream.replace(values=values)})


def signs(rng, rows):
    """A coin a modality, as often one side as the other."""
    return {m: rng.permutation(np.resize([-1.0, 1.0], rows)) for m in MODALITIES}


def numbers(rng, rows):
    """A uniform number a modality."""
    return {m: rng.uniform(-1, 1, rows) for m in MODALITIES}


def task(draw, label) -> Callable[[np.random.Generator, int], Batch]:
    def make(rng: np.random.Generator, rows: int) -> Batch:
        cues = draw(rng, rows)
        return batch_of(rng, cues, label(cues, rng))

    return make


def copies(rng, rows):
    one = rng.choice([-1.0, 1.0], rows)
    return dict.fromkeys(MODALITIES, one)


def in_time(rng: np.random.Generator, rows: int) -> Batch:
    """Both cues are 1; the label: does the picture come up to three steps after the sound or before it, on a circle."""
    label = rng.random(rows) < 0.5
    heard = rng.integers(0, STEPS, rows)
    seen = (heard + np.where(label, 1, -1) * rng.integers(1, 4, rows)) % STEPS
    ones = dict.fromkeys(MODALITIES, np.ones(rows))
    return batch_of(rng, ones, label, {"audio": heard, "video": seen})


def circle(tokens):
    """Picture's time minus sound's, in (-half a clip, half a clip]."""
    times, length = when(tokens), STEPS / RATE
    return (times["video"] - times["audio"] + length / 2) % length - length / 2


by_audio = task(signs, lambda cues, rng: cues["audio"] > 0)
by_sum = task(numbers, lambda cues, rng: cues["audio"] + cues["video"] > 0)
EXACT = 1e-6
# Of 4,000 rows a share is within five standard deviations, 0.04, of what it is in the mean.
NEAR = 0.04


def about(value: float, tolerance: float = NEAR) -> tuple[float, float]:
    return value - tolerance, value + tolerance


CASES: dict[str, Case] = {
    "T1 audio only": Case(
        Planted(lambda tokens: 4 * cue(tokens)["audio"]),
        by_audio,
        {
            "mm_shap.audio": (0.98, 1), "shape.video": about(0, EXACT), "shape.audio": about(0.5),
            "shape.cooperation": about(0, EXACT), "confusion.audio": about(0, EXACT), "inter_shap": about(0, EXACT),
            "drift.allocation.video_noise": about(0, EXACT),
        },
    ),
    "T2 additive": Case(
        Planted(lambda tokens: 4 * (cue(tokens)["audio"] + cue(tokens)["video"])),
        by_sum,
        {
            "emap.gap": about(0, EXACT), "inter_shap": about(0, EXACT), "shape.cooperation": about(0),
            "shape.audio": about(0.25), "shape.video": about(0.25),
        },
    ),
    "T3 exclusive or": Case(
        Planted(lambda tokens: 4 * cue(tokens)["audio"] * cue(tokens)["video"]),
        task(signs, lambda cues, rng: cues["audio"] * cues["video"] > 0),
        {
            "inter_shap": (0.9, 1), "shape.cooperation": about(0.5), "accuracy.audio": about(0.5),
            "accuracy.video": about(0.5), "emap.gap": about(0.5, 0.1), "pid.synergy": about(1, 0.02),
        },
    ),
    "T4 redundant copies": Case(
        Planted(lambda tokens: 4 * (cue(tokens)["audio"] + cue(tokens)["video"])),
        task(copies, lambda cues, rng: cues["audio"] > 0),
        {"shape.cooperation": about(-0.5), "accuracy.audio": (1, 1), "accuracy.video": (1, 1),
         "pid.redundancy": about(1, 0.02)},
    ),
    "T5 attention decoy": Case(
        # Saturated, so that the decision is the same where the video and its share of attention are taken away.
        Planted(lambda tokens: 4 * jnp.tanh(2000 * attended(
            tokens, lambda m, x: jnp.full(x.shape[:2], 4.0 * (m == "video")), {"audio": 1.0, "video": 0.0}
        ))),
        by_audio,
        {"mass.video": (0.95, 1), "output_share.audio": (0.999, 1), "chefer_share.audio": (0.999, 1),
         "shape.video": about(0, EXACT), "shape.audio": about(0.5), "mm_shap.audio": (0.9, 1)},
    ),
    "T6 leaves what is corrupted": Case(
        Planted(lambda tokens: 32 * attended(
            tokens, lambda m, x: -4 * jnp.square(x[..., 1]).mean(axis=1, keepdims=True) * jnp.ones(STEPS),
            {"audio": 1.0, "video": 1.0},
        )),
        task(copies, lambda cues, rng: cues["audio"] > 0),
        {"rfi.audio": (1, 1), "rfi.video": (1, 1), "accuracy.audio_noise": (1, 1)},
    ),
    "T7 captured by noise": Case(
        Planted(lambda tokens: 32 * attended(
            tokens, lambda m, x: 4 * jnp.square(x[..., 1]).mean(axis=1, keepdims=True) * jnp.ones(STEPS),
            {"audio": 1.0, "video": 1.0},
        )),
        by_sum,
        {"rfi.audio": (-1, -1), "rfi.video": (-1, -1)},
    ),
    "T8 shuffled labels": Case(
        Planted(lambda tokens: 4 * (cue(tokens)["audio"] + cue(tokens)["video"])),
        task(numbers, lambda cues, rng: rng.random(len(cues["audio"])) < 0.5),
        {"accuracy": about(0.5), "accuracy.audio": about(0.5), "confusion.audio": about(12.5, 4),
         "faithfulness.gap.label": about(0, 0.1)},
    ),
    "T9 constant": Case(
        Planted(lambda tokens: jnp.full(tokens["audio"].values.shape[0], float(np.log(0.7 / 0.3)))),
        by_audio,
        {"accuracy": about(0.5), "ece": about(0.2), "shape.audio": about(0, EXACT), "shape.video": about(0, EXACT)},
    ),
    "T10 synchrony": Case(
        Planted(lambda tokens: 8 * circle(tokens)),
        in_time,
        {"accuracy": (1, 1), "accuracy.audio": about(0.5), "accuracy.video": about(0.5),
         "shape.cooperation": about(0.5), "accuracy.offset_half_a_clip": (0, 0)},
    ),
}  # fmt: skip
