"""The shapes of attention that audio-visual models use, as data for tests, ahead-of-time checks and the bench."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kernels.attention.mask import Layout, Mask, pairs


@dataclasses.dataclass(frozen=True)
class Spec:
    """One shape of attention.

    Attributes:
      name: of the specification.
      source: the model that has it, or what it is there to exercise.
      queries, keys: modality groups.
      heads: H; ``shared`` is Hkv, by default the same.
      width: D; ``value_width`` is Dv, by default the same.
      sees: who sees whom, None is everyone to everyone.
      causal: as in Mask.
      long: too many tokens for Nq x Nk arrays: only sampled rows can be checked against a dense computation.
    """

    name: str
    source: str
    queries: Layout
    keys: Layout
    heads: int
    width: int
    shared: int | None = None
    value_width: int | None = None
    sees: tuple[tuple[str, str], ...] | None = None
    causal: bool = False
    long: bool = False

    @property
    def tokens(self) -> int:
        """The larger of the numbers of queries and keys."""
        return max(self.queries.length, self.keys.length)

    def mask(self, **dynamic: Any) -> Mask:
        """The mask, with validity, presence or segments where given."""
        return Mask(self.queries, self.keys, sees=self.sees, causal=self.causal, **dynamic)

    def seen(self) -> np.ndarray:
        """bool [Nq, Nk]: who sees whom, where nothing is missing."""
        result = np.zeros((self.queries.length, self.keys.length), bool)
        for pair in pairs(self.mask()):
            for keys in pair.keys:
                result[slice(*pair.queries), slice(*keys)] = True
        return np.tril(result) if self.causal else result

    def shapes(self, batch: int) -> dict[str, tuple[int, int, int, int]]:
        """Shapes of query, key and value."""
        shared, value_width = self.shared or self.heads, self.value_width or self.width
        return {
            "query": (batch, self.queries.length, self.heads, self.width),
            "key": (batch, self.keys.length, shared, self.width),
            "value": (batch, self.keys.length, shared, value_width),
        }

    def arrays(self, batch: int, dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Array]:
        """Normal random query, key and value."""
        keys = jax.random.split(jax.random.key(seed), 3)
        return {
            name: jax.random.normal(key, shape, dtype)
            for key, (name, shape) in zip(keys, self.shapes(batch).items(), strict=True)
        }


def _itself(name: str, source: str, layout: Layout, heads: int, width: int, **more: Any) -> Spec:
    return Spec(name, source, layout, layout, heads, width, **more)


def bottleneck(audio: int, bottlenecks: int, video: int) -> tuple[Layout, tuple[tuple[str, str], ...]]:
    """Layout and visibility of bottleneck fusion: each modality sees itself and its own copy of the bottlenecks."""
    layout = Layout.of(audio=audio, bottleneck_audio=bottlenecks, bottleneck_video=bottlenecks, video=video)
    sides = (("audio", "bottleneck_audio"), ("video", "bottleneck_video"))
    return layout, tuple((query, key) for side in sides for query in side for key in side)


_MBT, _MBT_SEES = bottleneck(401, 4, 1569)
_JOINT = Layout.of(audio=512, video=196)

SPECS: tuple[Spec, ...] = (
    _itself("mbt_audioset", "MBT-B on AudioSet, 8 s, one CLS a modality", _MBT, 12, 64, sees=_MBT_SEES),
    _itself("mbt_merged", "MBT-B with one merged encoder", Layout.of(audio=401, video=1569), 12, 64),
    _itself("cav_mae", "CAV-MAE's joint layer", _JOINT, 12, 64),
    _itself("av_mae_decoder", "a masked autoencoder's decoder, narrow heads", _JOINT, 16, 32),
    Spec("avsr_cross", "speech decoder over audio", Layout.of(video=750), Layout.of(audio=1500), 8, 64),
    _itself("ave", "AVE: ten one-second segments of both", Layout.of(audio=10, video=10), 4, 32),
    Spec("mult", "MulT: text to audio, unaligned", Layout.of(text=50), Layout.of(audio=500), 10, 4),
    _itself("odd_7", "odd length", Layout.of(audio=4, video=3), 2, 16),
    _itself("odd_129", "one more than a block", Layout.of(audio=64, video=65), 2, 64, causal=True),
    _itself("odd_1573", "odd and long", Layout.of(bottleneck=4, video=1569), 2, 64),
    _itself("gqa", "grouped queries, wider values", Layout.of(audio=60, video=40), 12, 16, shared=4, value_width=24),
    _itself("long_16k", "long video", Layout.of(audio=2048, video=14336), 8, 64, long=True),
    _itself("long_64k", "very long video", Layout.of(audio=8192, video=57344), 8, 64, long=True),
)

# By name.
TABLE: dict[str, Spec] = {spec.name: spec for spec in SPECS}

# By name, with the case of equal lengths that benchmarks are compared on.
_HALVES = Layout.of(audio=256, video=256)
SQUARE = _itself("square", "audio and video, half each", _HALVES, 12, 64)
NAMED: dict[str, Spec] = {"square": SQUARE, **TABLE}
