"""Fusion: how modalities meet.

layers.py       layers of a transformer: through a bottleneck, by cross-attention, in one merged sequence
crossmodal.py   layers in which one modality asks another: co-attention, asymmetric, in parallel
directional.py  MulT's transformer from one modality to another (imported from there)
joint.py        joint cross-attention, features by features
events.py       blocks of audio-visual event localisation
latents.py      latent tokens between modalities: adapters, queries that read a sequence
vectors.py      one vector a modality: concatenation, sum, gates, FiLM, MMTM
bilinear.py     one vector a modality: products of channels
decision.py     logits of each modality: fixed and learned rules
"""

from avjax.nn.fusion.bilinear import (
    AdaptiveBilinear,
    CompactBilinear,
    FactorisedBilinear,
    LowRankFusion,
    MultiLevelFusion,
    TensorFusion,
)
from avjax.nn.fusion.crossmodal import AsymmetricFusion, CoAttentionFusion, ParallelCrossAttention
from avjax.nn.fusion.decision import DecisionFusion, LabelSpaceFusion
from avjax.nn.fusion.events import (
    AudioGuidedAttention,
    AudioVisualInteraction,
    CrossModalRelationAttention,
    DualResidual,
    PositiveSamplePropagation,
    SpatialChannelAttention,
)
from avjax.nn.fusion.joint import JointCrossAttention, RecursiveJointAttention
from avjax.nn.fusion.latents import CausalQFormer, LatentAdapter, PerceiverResampler, QFormer
from avjax.nn.fusion.layers import (
    REMAT_POLICIES,
    Bottleneck,
    BottleneckFusion,
    CausalLayer,
    CrossAttentionFusion,
    Layer,
    MergedFusion,
    Tokens,
    UnimodalLayer,
    present,
)
from avjax.nn.fusion.vectors import (
    MMTM,
    Concatenation,
    FiLM,
    FiLMFusion,
    GatedFusion,
    Mean,
    MMTMFusion,
    Sum,
    VectorFusion,
)

# Fusions of vectors by name, all called alike.
FUSIONS = {
    "concat": Concatenation,
    "sum": Sum,
    "mean": Mean,
    "gated": GatedFusion,
    "film": FiLMFusion,
    "mmtm": MMTMFusion,
    "bilinear": FactorisedBilinear,
    "low_rank": LowRankFusion,
    "tensor": TensorFusion,
}

__all__ = [
    "FUSIONS",
    "MMTM",
    "REMAT_POLICIES",
    "AdaptiveBilinear",
    "AsymmetricFusion",
    "AudioGuidedAttention",
    "AudioVisualInteraction",
    "Bottleneck",
    "BottleneckFusion",
    "CausalLayer",
    "CausalQFormer",
    "CoAttentionFusion",
    "CompactBilinear",
    "Concatenation",
    "CrossAttentionFusion",
    "CrossModalRelationAttention",
    "DecisionFusion",
    "DualResidual",
    "FactorisedBilinear",
    "FiLM",
    "FiLMFusion",
    "GatedFusion",
    "JointCrossAttention",
    "LabelSpaceFusion",
    "LatentAdapter",
    "Layer",
    "LowRankFusion",
    "MMTMFusion",
    "Mean",
    "MergedFusion",
    "MultiLevelFusion",
    "ParallelCrossAttention",
    "PerceiverResampler",
    "PositiveSamplePropagation",
    "QFormer",
    "RecursiveJointAttention",
    "SpatialChannelAttention",
    "Sum",
    "TensorFusion",
    "Tokens",
    "UnimodalLayer",
    "VectorFusion",
    "present",
]
