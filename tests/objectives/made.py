"""Outputs and batches for tests of objectives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from avjax.streams import Batch, Output, Stream


def output_and_batch(logits, target, weight, present=None, **aux) -> tuple[Output, Batch]:
    """What an objective is given; ``present``: modality -> [B] whether a row has it."""
    rows = len(weight)
    tokens = {
        modality: Stream(jnp.zeros((rows, 2, 1)), jnp.asarray(np.repeat(there[:, None], 2, 1)), jnp.zeros(rows), 1.0)
        for modality, there in (present or {}).items()
    }
    arrays = jax.tree.map(jnp.asarray, (logits, target, weight))
    return Output(arrays[0], tokens, aux), Batch({}, arrays[1], arrays[2], jnp.arange(rows))


def finite(tree) -> bool:
    """Whether every number is one."""
    return all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
