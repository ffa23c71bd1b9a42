"""Fusion: how modalities meet.

layers.py    layers of a transformer: through a bottleneck, by cross-attention, in one merged sequence
"""

from avjax.nn.fusion.layers import (
    REMAT_POLICIES,
    Bottleneck,
    BottleneckFusion,
    CrossAttentionFusion,
    Layer,
    MergedFusion,
    Tokens,
    UnimodalLayer,
    present,
)

__all__ = [
    "REMAT_POLICIES",
    "Bottleneck",
    "BottleneckFusion",
    "CrossAttentionFusion",
    "Layer",
    "MergedFusion",
    "Tokens",
    "UnimodalLayer",
    "present",
]
