"""JCA, joint cross-attention for continuous emotion.

Praveen, Cardinal, Granger: Audio-Visual Fusion for Emotion Recognition in the Valence-Arousal Space Using Joint
Cross-Attention, IEEE T-BIOM 2023; first at a workshop of CVPR 2022. For L segments, X_m [L, d_m], J = [X_1; ...; X_M]
[L, d]:

    C_m    = tanh(X_m^T Wj_m J / sqrt(d))                  [d_m, d]: features against features, weighed along time
    H_m    = ReLU(W_m X_m + Wc_m C_m^T)                    [k, d_m]
    X'_m   = Wh_m H_m + X_m
    y_t    = W DP(relu(W_1 [X'_1; ...; X'_M]_t)) + b       one regressor a head; logits = mean_t y_t

The release's: the equations, features of 512 from networks trained before (R(2+1)D-18 on faces, ResNet-18 on log-mel),
L = 8 or 16 segments, k = 32, 128 hidden units with dropout 0.6, and the loss 1 - CCC: train with
``Regression(kind="ccc")``. Its regressor has 640 inputs; ours as many as X' has. Part of it joins the attended sound
with the picture as it was; we follow the equations. Ours: modalities are cut into segments by the clock; a segment that
a modality lacks is 0 for the others, and counts in no mean where all lack it.

``aux["segments"]`` holds y_t, ``valid`` [B, L] and head -> [B, L, K].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import JointCrossAttention, Tokens
from avjax.nn.heads import RegressionHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import mean_pool
from avjax.nn.segments import aligned
from avjax.streams import Output

SYSTEM = System(
    name="JCA",
    source="Praveen et al. 2023 [18]",
    mechanism="co",
    fusion="hybrid",
    architecture="CNN",
    task="continuous emotion regression",
    corpora=("RECOLA", "Aff-Wild2"),
    metrics=("CCC",),
    use="few segments of strong features: the attention has no more weights than segments squared",
    avoid="clips of varying length: weights along time are tied to the number of segments",
    ours="segments by the clock, and what a missing modality leaves",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of values.
      widths: modality -> d_m.
      segments: L.
      correlation: k.
      hidden: units of the regressors.
      dropout: of these.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    widths: Mapping[str, int]
    segments: int = 8
    correlation: int = 32
    hidden: int = 128
    dropout: float = 0.6

    @classmethod
    def paper(cls) -> Config:
        """Aff-Wild2: 8 segments of 512 features."""
        modalities = Precomputed("audio", (8, 512)), Precomputed("video", (8, 512))
        return cls(modalities, {"valence": 1, "arousal": 1}, {"audio": 512, "video": 512})

    @classmethod
    def tiny(cls) -> Config:
        modalities, widths = (Precomputed("audio", (6, 5)), Precomputed("video", (3, 6))), {"audio": 8, "video": 6}
        return cls(modalities, {"emotion": 3}, widths, segments=3, correlation=4, hidden=16, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> JCA:
        return JCA(self, rngs=rngs)


class JCA(AudioVisualModel):
    """Joint cross-attention; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.widths, rngs=rngs)
        widths = {m: config.widths[m] for m in self.modalities}
        self.segments = config.segments
        self.attention = JointCrossAttention(widths, config.segments, hidden=config.correlation, rngs=rngs)
        options = {"hidden": config.hidden, "dropout": config.dropout}
        self.regress = nnx.Dict(
            {
                head: RegressionHead(sum(widths.values()), {head: count}, **options, rngs=rngs)
                for head, count in config.classes.items()
            }
        )

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From X_m to y_t and their mean."""
        tokens, _ = self.attention(aligned(self.hidden(tokens, keep), self.segments))
        joint = jnp.concatenate([tokens[m].values for m in self.modalities], axis=-1)
        valid = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        y = {head: regress(joint)[head] for head, regress in self.regress.items()}
        logits = {head: mean_pool(numbers, valid) for head, numbers in y.items()}
        return Output(logits=logits, tokens=tokens, aux={"segments": {"valid": valid, **y}})
