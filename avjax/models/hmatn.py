"""HMATN, a hybrid multi-attention network: attention within and across modalities side by side.

Moorthy, Moon: Hybrid Multi-Attention Network for Audio-Visual Emotion Recognition Through Multimodal Feature Fusion,
Mathematics 2025. For T segments of every modality:

    X_m    = TCN_m(features of m)
    S_m    = LN(X_m + MHA(X_m, X_m))                     attention within a single modality
    P_m    = LN(X_m + MHA(X_m, X_others))                parallel attention across modalities
    R_m    = MHA(S_m, [S_1 | ... | S_M])                 relation of a modality to all
    z_t    = [S_1; P_1; R_1; ...; S_M; P_M; R_M]_t
    y_t    = tanh(W DP(relu(W_1 z_t))),   y_m,t = tanh(W_m DP(S_m,t)),   logits = mean_t y_t

The paper's, from its abstract: attention within and across modalities in parallel, a relation attention across
modalities, and an emotion module that is given the features of each modality beside those of both. The source could not
be read in full; the form above is ours, TCN, widths and heads with it. ``across`` joint takes the joint cross-attention
of Praveen et al. 2023 for P_m, whose words the abstract uses. The paper's semantic attention is not here: nothing of it
could be read. Ours too: what is missing is nobody to ask, and 0 in z.

For continuous emotion train with ``Regression(kind="ccc")``, which gives the modalities' own outputs,
``head/modality``, a weight of 0.5, and with ``task="series"`` for every segment. ``aux["segments"]`` holds y_t and
y_m,t, head and ``head/modality`` -> [B, T, K], and ``valid`` [B, T]; ``aux["valid"]`` which of y_m,t there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from avjax.models import System
from avjax.nn import statistics
from avjax.nn.convolution import masked
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import JointCrossAttention, ParallelCrossAttention, Tokens
from avjax.nn.fusion.crossmodal import cleaned, relation
from avjax.nn.fusion.layers import Layer
from avjax.nn.heads import RegressionHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import mean_pool
from avjax.nn.segments import aligned
from avjax.nn.stack import Stack
from avjax.nn.temporal import TemporalConvolution
from avjax.nn.transformer import MultiHeadAttention
from avjax.streams import Output

SYSTEM = System(
    name="HMATN",
    source="Moorthy and Moon 2025 [4]",
    mechanism="cross",
    fusion="hybrid",
    architecture="CNN",
    task="continuous emotion regression",
    corpora=("Aff-Wild2", "AFEW-VA", "IEMOCAP"),
    metrics=("CCC", "RMSE", "PCC"),
    use="either modality may carry the emotion alone: what each says by itself reaches the end",
    avoid="little data: every modality has three attentions, and they overlap",
    ours="the whole form; only the parts are named in what could be read",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of values.
      width, heads: of every attention.
      segments: T.
      dilations: of the TCN.
      across: how P_m is made: by one attention a modality to the others, or jointly (joint.py).
      correlation: k of the joint attention.
      relation: whether there is R_m.
      hidden: units of the regressor.
      bounds: (lo, hi), which the outputs never leave; None for logits.
      dropout: of attention and TCN, and ``head_dropout`` of the heads.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 512
    heads: int = 8
    segments: int = 16
    dilations: tuple[int, ...] = (1, 2, 4)
    across: Literal["parallel", "joint"] = "parallel"
    correlation: int = 32
    relation: bool = True
    hidden: int = 128
    bounds: tuple[float, float] | None = (-1.0, 1.0)
    dropout: float = 0.1
    head_dropout: float = 0.6

    def __post_init__(self) -> None:
        if len(self.modalities) < 2:
            raise ValueError("HMATN needs two modalities or more")

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 16 segments of 512 features of faces and of sound."""
        return cls((Precomputed("audio", (16, 512)), Precomputed("video", (16, 512))), {"valence": 1, "arousal": 1})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 6))
        sizes = {"width": 8, "heads": 2, "segments": 3, "dilations": (1,), "hidden": 16}
        return cls((audio, video), {"emotion": 3}, **sizes, bounds=None, dropout=0.0, head_dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> HMATN:
        return HMATN(self, rngs=rngs)


class HMATN(AudioVisualModel):
    """Hybrid multi-attention network; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width, heads, dropout = config.width, config.heads, config.dropout
        super().__init__(config.modalities, width, rngs=rngs)
        names = self.modalities
        self.segments = config.segments

        def attention(keys: Literal["own", "others"]) -> Layer:
            return ParallelCrossAttention(width, heads, names, keys=keys, post_norm=True, dropout=dropout, rngs=rngs)

        def tcn() -> TemporalConvolution:
            return TemporalConvolution(width, width, dilations=config.dilations, dropout=dropout, rngs=rngs)

        def joint() -> Layer:
            return JointCrossAttention(
                dict.fromkeys(names, width), config.segments, hidden=config.correlation, rngs=rngs
            )

        self.tcn = nnx.Dict({m: tcn() for m in names})
        self.single = Stack("single", [attention("own")])
        self.across = Stack("across", [attention("others") if config.across == "parallel" else joint()])
        relations = {m: MultiHeadAttention(width, heads, rngs=rngs) for m in names} if config.relation else {}
        self.relation = nnx.Dict(relations)
        total = len(names) * width * (3 if config.relation else 2)
        options = {"bounds": config.bounds, "dropout": config.head_dropout}
        self.regress = RegressionHead(total, config.classes, hidden=config.hidden, **options, rngs=rngs)
        self.regress_own = nnx.Dict({m: RegressionHead(width, config.classes, **options, rngs=rngs) for m in names})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From features to y_t and their mean, and those of each modality."""
        tokens = aligned(self.hidden(tokens, keep), self.segments)
        x = {m: s.replace(values=self.tcn[m](s.values, s.valid)) for m, s in tokens.items()}
        # A norm makes something of nothing: what is not valid is 0 in z.
        single, across = cleaned(self.single(x)[0]), cleaned(self.across(x)[0])
        parts = [[single[m].values, across[m].values, *self._relation(m, single)] for m in self.modalities]
        z = jnp.concatenate([values for of_modality in parts for values in of_modality], axis=-1)
        valid = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        y = self.regress(z)
        logits = {head: mean_pool(numbers, valid) for head, numbers in y.items()}
        steps, counted = dict(y), {}
        for m in self.modalities:
            own = {f"{head}/{m}": x for head, x in self.regress_own[m](single[m].values).items()}
            logits |= {name: mean_pool(numbers, single[m].valid) for name, numbers in own.items()}
            steps, counted = steps | own, counted | dict.fromkeys(own, single[m].valid)
        return Output(logits=logits, tokens=single, aux={"segments": {"valid": valid, **steps}, "valid": counted})

    def _relation(self, modality: str, single: Tokens) -> list[Array]:
        """R_m, or nothing."""
        if modality not in self.relation:
            return []
        with statistics.site("relation"):
            found = relation(self.relation[modality], modality, single, self.modalities)
        return [masked(found, single[modality].valid)]
