"""Attention in its parts: how scores are made of queries and keys, and weights of scores.

scores.py            (query, key) to scores: scaled dot, cosine, dense shift, additive, bilinear
normalizers.py       (scores, valid) to weights: softmax, sparsemax, entmax, relu-L1, tanh, identity, focal
total_variation.py   tvmax: weights that are equal over connected regions
shrinkage.py         weights of scores that an adaptive threshold has cleared of what is small
dense.py             the attention of any of these; a residual of the scores, through the kernels
densities.py         moments and mixtures of Gaussians fitted to weights
continuous.py        continuous attention over time or an image, from weights of any normaliser
"""

from __future__ import annotations

from avjax.nn.scoring.continuous import Basis, ContinuousAttention, context
from avjax.nn.scoring.dense import attend_dense, attend_residual, residual_scores
from avjax.nn.scoring.densities import Mixture, fit, moments, shortest, single
from avjax.nn.scoring.normalizers import entmax, focal, identity, relu_l1, softmax, sparsemax, tanh
from avjax.nn.scoring.scores import Additive, Bilinear, cosine, dense_shift, scaled_dot, side_by_side
from avjax.nn.scoring.shrinkage import AdaptiveShrinkage
from avjax.nn.scoring.total_variation import denoise, tvmax

__all__ = [
    "AdaptiveShrinkage",
    "Additive",
    "Basis",
    "Bilinear",
    "ContinuousAttention",
    "Mixture",
    "attend_dense",
    "attend_residual",
    "context",
    "cosine",
    "denoise",
    "dense_shift",
    "entmax",
    "fit",
    "focal",
    "identity",
    "moments",
    "relu_l1",
    "residual_scores",
    "scaled_dot",
    "shortest",
    "side_by_side",
    "single",
    "softmax",
    "sparsemax",
    "tanh",
    "tvmax",
]
