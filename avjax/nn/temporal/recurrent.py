"""Recurrence over the valid steps of a sequence."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, named

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}


class Recurrent(nnx.Module):
    """Recurrent layers over time (LSTM: Hochreiter and Schmidhuber 1997; GRU: Cho et al. 2014; simple: Elman 1990).

        lstm:  i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b),  c <- f c + i g,  h <- o tanh(c)
        gru:   r, z = sigmoid(W x + b + U h),  n = tanh(W x + b + r (U h)),  h <- (1 - z) n + z h
        rnn:   h <- tanh(W x + b + U h)

    with matrices of their own for every gate, and h = c = 0 before the first step. With ``bidirectional`` a second
    cell runs from the end to the beginning, and the output is [forward; backward] (Schuster and Paliwal 1997). Dropout
    is between layers.

    Ours: a step that is not valid, wherever it lies, leaves the state as it is and puts out 0, as if the sequence were
    without it. The state is float32 whatever the input is.

    Args:
      width: of the input.
      hidden: units of each direction.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        kind: Literal["lstm", "gru", "rnn"] = "lstm",
        bidirectional: bool = True,
        layers: int = 1,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        directions = 2 if bidirectional else 1
        widths = [width] + [directions * hidden] * (layers - 1)
        self.layers = nnx.List(
            [nnx.List([_cell(kind, inputs, hidden, rngs) for _ in range(directions)]) for inputs in widths]
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B N _"]:
        """[B, N, hidden], or [B, N, 2 hidden] of both directions."""
        x = masked(x, valid)
        for number, cells in enumerate(self.layers):
            x = self.dropout(x) if number else x
            runs = [_run(cell, x, valid, reverse=bool(direction)) for direction, cell in enumerate(cells)]
            x = jnp.concatenate(runs, axis=-1)
        return x


def _cell(kind: str, width: int, hidden: int, rngs: nnx.Rngs) -> nnx.Module:
    return CELLS[kind](
        width,
        hidden,
        kernel_init=named(nnx.initializers.lecun_normal(), EMBED, HIDDEN),
        recurrent_kernel_init=named(nnx.initializers.orthogonal(), EMBED, HIDDEN),
        bias_init=named(nnx.initializers.zeros_init(), HIDDEN),
        # Of inputs and parameters; the simple cell alone would have float32.
        dtype=None,
        rngs=rngs,
    )


def _run(cell: nnx.Module, x: Array, valid: Array, *, reverse: bool) -> Array:
    """Outputs of one cell in one direction: [B, N, hidden]."""
    zeros = jnp.zeros((x.shape[0], cell.hidden_features), jnp.promote_types(x.dtype, jnp.float32))
    state = (zeros, zeros) if isinstance(cell, nnx.OptimizedLSTMCell) else zeros

    def step(state: Any, at: tuple[Array, Array]) -> tuple[Any, Array]:
        x, valid = at
        valid = valid[:, None]
        after, output = cell(state, x)
        state = jax.tree.map(lambda new, old: jnp.where(valid, new.astype(old.dtype), old), after, state)
        return state, jnp.where(valid, output, 0).astype(x.dtype)

    _, outputs = jax.lax.scan(step, state, (jnp.swapaxes(x, 0, 1), valid.T), reverse=reverse)
    return jnp.swapaxes(outputs, 0, 1)
