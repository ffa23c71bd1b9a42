"""What every audio-visual model is: encoders, one a modality, and a fusion of their tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.encoders import Encoder, hide
from avjax.streams import Batch, Output, Stream

Keep = Mapping[str, Bool[Array, "B _"]] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedded(Stream):
    """Tokens that have been through their encoder; some may have been cut out since."""


class AudioVisualModel(nnx.Module):
    """model(batch) = fuse(encode(batch)), the contract of every system.

    A subclass says in ``fuse`` how the tokens of the modalities become logits, and extends ``encode`` where modalities
    go further by themselves.

    Attributes:
      sets: whether tokens behind the encoders are sets: ``encode`` takes them from this class's own and leads each
        modality on by itself, and nothing depends on the place of a token in its sequence (its values may tell where it
        was). Of such a model hidden tokens may be cut out, which costs less than to hide them. Where ``fuse`` goes on
        with one modality before it looks at another, ``alone`` and ``logits`` say how.

    Args:
      modalities: configurations of the encoders; their order is the model's.
      width: of the tokens; or modality -> its own, where modalities keep theirs.
    """

    sets = False

    def __init__(self, modalities: Sequence[Encoder], width: int | Mapping[str, int], *, rngs: nnx.Rngs):
        self.encoded = self.modalities = tuple(encoder.modality for encoder in modalities)
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities {', '.join(self.modalities)}: each may stand once")
        widths = width if isinstance(width, Mapping) else dict.fromkeys(self.modalities, width)
        self.encoders = nnx.Dict({e.modality: e.build(widths[e.modality], rngs=rngs) for e in modalities})

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        return self.fuse(self.encode(batch, keep))

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """Each modality by itself: [B, N, width].

        Args:
          batch: a stream may be ``Embedded``.
          keep: modality -> [B, N], False hides a token from every layer.
        """
        return self.hidden(self.embeddings(batch), keep)

    def embeddings(self, batch: Batch) -> dict[str, Stream]:
        """The tokens that the encoders make, all of them."""
        return {m: self.embedded(batch, m) for m in self.encoded}

    def embedded(self, batch: Batch, modality: str) -> Stream:
        """The tokens that the modality's encoder makes, all of them."""
        stream = _cleaned(batch.streams[modality])
        if isinstance(stream, Embedded):
            return Stream(stream.values, stream.valid, stream.start, stream.rate)
        return self.encoder(modality)(stream)

    def encoder(self, modality: str) -> nnx.Module:
        """Of this modality."""
        return self.encoders[modality]

    def alone(self, modality: str, tokens: Stream) -> Any:
        """What ``fuse`` makes of one modality, from ``encode``, before it looks at another."""
        return tokens

    def logits(self, parts: Mapping[str, Any]) -> dict[str, Float[Array, "B K"]]:
        """The logits of ``fuse`` and nothing else of it, from what ``alone`` has made of every modality."""
        return self.fuse(parts).logits

    def hidden(self, tokens: Mapping[str, Stream], keep: Keep) -> dict[str, Stream]:
        """The tokens that ``keep`` leaves."""
        return {m: hide(tokens[m], (keep or {}).get(m)) for m in self.encoded}


Inner = TypeVar("Inner")


@dataclasses.dataclass(frozen=True)
class Around(Generic[Inner]):
    """Configuration of a model with something around it: its modalities and classes are those of the model.

    Attributes:
      model: configuration of the model.
    """

    model: Inner

    @property
    def modalities(self) -> tuple[Encoder, ...]:
        return self.model.modalities

    @property
    def classes(self) -> Mapping[str, int]:
        return self.model.classes


def token_shapes(
    model: Any, encoders: Sequence[Encoder], tokens: Callable[[Any, Batch], Mapping[str, Stream]]
) -> dict[str, tuple[int, ...]]:
    """Modality -> (N, width) of the tokens that a model makes of a batch; nothing is computed."""
    graph, state = nnx.split(model)

    def make(state: Any, streams: dict[str, Stream]) -> Mapping[str, Stream]:
        batch = Batch(streams, {}, jnp.ones(1), jnp.zeros(1, jnp.int32))
        return tokens(nnx.merge(graph, state, copy=True), batch)

    streams = {
        e.modality: Stream(jnp.zeros((1, *e.shape)), jnp.ones((1, e.shape[0]), bool), jnp.zeros(1), rate=1.0)
        for e in encoders
    }
    return {m: stream.values.shape[1:] for m, stream in jax.eval_shape(make, state, streams).items()}


def _cleaned(stream: Stream) -> Stream:
    """What is not valid is 0: whatever it was, nothing behind this needs to ask again."""
    return stream.replace(values=masked(jnp.asarray(stream.values), jnp.asarray(stream.valid)))
