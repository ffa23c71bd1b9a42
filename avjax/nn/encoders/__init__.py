"""Encoders: from a stream of features to a sequence of tokens, one file a family.

    patches.py    patches of a spectrogram, tubelets of a video (ViT)

A model takes the configuration of an encoder for every modality, and asks of it what ``Encoder`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from flax import nnx

from avjax.nn.encoders.patches import PatchEmbedding, Patches, append_class_token, hide

__all__ = ["Encoder", "PatchEmbedding", "Patches", "append_class_token", "hide"]


@runtime_checkable
class Encoder(Protocol):
    """The configuration of a modality's encoder: a frozen dataclass.

    Attributes:
      modality: name of the stream.
      shape: of one example's features, time first.
      tokens: how many tokens come out, in time-major order.
      build: from (width, rngs=...) to a module that makes tokens [B, N, width] of (stream, keep [B, N] or None), where
        ``keep`` hides some of them.
    """

    @property
    def modality(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def tokens(self) -> int: ...

    @property
    def build(self) -> Callable[..., nnx.Module]: ...
