"""A stack of layers: run one after the other, or as one scanned program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from avjax.nn import statistics
from avjax.nn.fusion import Bottleneck, Layer
from avjax.nn.statistics import Records, replay, returning_records
from avjax.streams import Stream


class Stack(nnx.List):
    """Layers, each of which maps (tokens, bottleneck) to the same; ``name`` is that of its sites (statistics.py).

    With ``scan``, set from outside with ``nnx.view(model, scan=True)``, layers that are alike run as one program over
    their stacked weights: XLA compiles one layer instead of all. Weights are stacked inside the step and every layer
    keeps its own, so that a checkpoint says nothing of scans, and a run may go on with the other setting. In bfloat16
    the stack is written by the cast that there is anyway; in float32 it is one copy of the weights a step.
    """

    scan = False
    name = ""

    def __init__(self, name: str, layers: Sequence[Layer]):
        super().__init__(layers)
        self.name = name

    def __call__(
        self, tokens: Mapping[str, Stream], bottleneck: Bottleneck = None
    ) -> tuple[dict[str, Stream], Bottleneck]:
        with statistics.site(self.name):
            for layers in self._alike() if self.scan else [[layer] for layer in self]:
                if len(layers) == 1:
                    tokens, bottleneck = layers[0](tokens, bottleneck)
                else:
                    tokens, bottleneck = scanned(layers, dict(tokens), bottleneck)
        return dict(tokens), bottleneck

    def _alike(self) -> list[list[Layer]]:
        """Runs of neighbours that differ in the values of their weights alone."""
        runs: list[tuple[Any, list[Layer]]] = []
        for layer in self:
            kind = _kind(layer)
            if runs and runs[-1][0] == kind:
                runs[-1][1].append(layer)
            else:
                runs.append((kind, [layer]))
        return [layers for _, layers in runs]

    def set_view(self, scan: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          scan: if True, layers that are alike run as one program.
        """
        if scan is not None:
            self.scan = scan


def _kind(layer: Layer) -> tuple[Any, ...]:
    graph, state = nnx.split(layer)
    leaves, structure = jax.tree.flatten(state)
    return graph, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def scanned(
    layers: list[Layer], tokens: dict[str, Stream], bottleneck: Bottleneck
) -> tuple[dict[str, Stream], Bottleneck]:
    """Layers of one kind under ``jax.lax.scan``; what they change of themselves is written back to each."""
    graph = nnx.graphdef(layers[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(layer) for layer in layers))

    def step(carry: tuple[dict[str, Stream], Bottleneck], state: nnx.State) -> tuple[Any, tuple[nnx.State, Records]]:
        layer = nnx.merge(graph, state, copy=True)
        carry, records = returning_records(layer)(*carry)
        return carry, (nnx.state(layer, nnx.Not(nnx.Param)), records)

    carry, (changed, records) = jax.lax.scan(step, (tokens, bottleneck), stacked)
    replay(records, stacked=True)
    for number, layer in enumerate(layers):
        nnx.update(layer, jax.tree.map(lambda leaf, number=number: leaf[number], changed))
    return carry
