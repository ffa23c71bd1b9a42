"""Keys and streams for the tests of augmentation."""

from __future__ import annotations

import secrets

import jax
import jax.numpy as jnp
import numpy as np

from avjax.data.augment import row_keys
from avjax.streams import Stream


def keys(rows: int) -> jax.Array:
    return jax.jit(row_keys)(fresh_key(), jnp.arange(rows))


def fresh_key() -> jax.Array:
    return jax.random.key(secrets.randbits(31))


def stream(values, valid=None, rate=25.0) -> Stream:
    valid = np.ones(values.shape[:2], bool) if valid is None else valid
    return Stream(np.asarray(values, np.float32), valid, np.zeros(len(values), np.float32), rate)
