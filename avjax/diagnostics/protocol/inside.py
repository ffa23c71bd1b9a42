"""What a model makes of each modality before it decides: its last tokens, pooled over time, and its own logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.probe import ModelProbe
from avjax.nn.pooling import mean_pool
from avjax.streams import Stream


@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    """Of some clips.

    Attributes:
      tokens: modality -> mean over its valid tokens of the last layer, 0 where there is none; without modalities of
        which the model gives no tokens.
      logits: modality -> logits of its own, where the model decides by modality (``head/modality``).
    """

    tokens: Mapping[str, Float[np.ndarray, "B _"]]
    logits: Mapping[str, Float[np.ndarray, "B K"]]


def inside(probe: ModelProbe, clips: Clips) -> Inside:
    """Of any number of clips, in batches of one compiled size."""
    program, parts = _program(probe), []
    for rows, _, streams in probe.batches(clips):
        parts.append(jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:count], program(probe.state, streams)))
    return Inside(*jax.tree.map(lambda *of: np.concatenate(of), *parts))


@functools.lru_cache(maxsize=2)
def _program(probe: ModelProbe) -> Callable[..., tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    def report(state: Any, streams: Mapping[str, Stream]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        output = probe.steps.output(state, probe.features(streams))
        own = {m: output.logits.get(f"{probe.head}/{m}") for m in probe.modalities}
        return (
            {m: _pooled(output.tokens[m]) for m in probe.modalities if m in output.tokens},
            {m: logits.astype(jnp.float32) for m, logits in own.items() if logits is not None},
        )

    return compiled(report)


def _pooled(tokens: Stream) -> jax.Array:
    rows, count = tokens.values.shape[:2]
    return mean_pool(jnp.asarray(tokens.values, jnp.float32).reshape(rows, count, -1), jnp.asarray(tokens.valid))
