"""Encoders: from a stream of features to a sequence of tokens, one file a family.

    patches.py         patches of a spectrogram, tubelets of a video (ViT)
    convolutional.py   a few convolutions over time, over each frame, over a spectrogram
    resnet.py          ResNet-18 and -50 over frames or a spectrogram; 3-D and (2+1)-D over video
    vggish.py          VGGish over patches of a spectrogram
    shufflenet.py      ShuffleNet-v2 units, EfficientFace over faces
    spiking.py         spikes of pictures
    precomputed.py     features from files
    trunk.py           what those from convolutional.py on are made of

A model takes the configuration of an encoder for every modality, and asks of it what ``Encoder`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from flax import nnx

from avjax.nn.encoders.convolutional import Conv1dBlock, Conv1dEncoder, FrameConv, SpectrogramConv
from avjax.nn.encoders.patches import PatchEmbedding, Patches, append_class_token, hide
from avjax.nn.encoders.precomputed import Precomputed
from avjax.nn.encoders.resnet import ResNet, ResNet3D
from avjax.nn.encoders.shufflenet import EfficientFace
from avjax.nn.encoders.spiking import SpikingPatches
from avjax.nn.encoders.vggish import VGGish

__all__ = [
    "Conv1dBlock",
    "Conv1dEncoder",
    "EfficientFace",
    "Encoder",
    "FrameConv",
    "PatchEmbedding",
    "Patches",
    "Precomputed",
    "ResNet",
    "ResNet3D",
    "SpectrogramConv",
    "SpikingPatches",
    "VGGish",
    "append_class_token",
    "hide",
]


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
