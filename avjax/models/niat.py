"""NIAT, noise-imitation adversarial training for robust multimodal sentiment analysis.

Yuan, Liu, Xu, Gao: Noise Imitation Based Adversarial Training for Robust Multimodal Sentiment Analysis, IEEE
Transactions on Multimedia 2024.

    X_m    = Conv1d_m(x_m),   Z = CausalTransformer([X_1; ...; X_M]),   z = Z[0],   y = head(BN(z))
    x'     = x with features of random time steps 0;   z', y' of the same layers

    noisy            |y' - y*|, or cross-entropy
    imitation        0.6 BCE(D(z'), 1) + 0.4 |z - R(z')|_1
    discrimination   BCE(D(z), 1) + BCE(D(z'), 0)

The release's: everything above; steps are dropped from all modalities at once ("structured"), at a rate of 0.2 while
training, and never the first or last one that is there; convolutions without bias to 96, 24 and 40 channels, 3 layers
of 8 heads; y is bounded by [-3, 3]; R and D as in their docstrings. Its text has UNK in place of zeros. Its Z is read
at step 0, which in causal order sees nothing but itself: the class token of the text. ``readout`` last is ours and the
default, as are two players in one step, with gradients stopped in place of alternating updates (the release computes
the discriminator's loss and never follows it). Modalities meet in segments of equal length; a segment without a
modality has zeros for it. When nothing is random the same steps are dropped every time.

Train with ``WithTerms(Regression(kind="l1"), (("noisy", 1.0), ("imitation", 0.2), ("discrimination", 0.1)))``. The
release divides the sum of the first two by two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.models import System
from avjax.nn.convolution import BatchNorm, masked
from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense
from avjax.nn.encoders import Conv1dEncoder, Encoder
from avjax.nn.fusion import CausalLayer, Tokens
from avjax.nn.heads import RegressionHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import last_pool
from avjax.nn.segments import aligned
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, Size
from avjax.objectives.adversarial import discriminator_loss, frozen, generator_loss
from avjax.objectives.rows import rows_mean
from avjax.streams import Batch, Mean, Output, Stream

SYSTEM = System(
    name="NIAT",
    source="Yuan et al. 2024 [36]",
    mechanism="self",
    fusion="early",
    architecture="Transformer",
    task="sentiment regression under imperfect features",
    corpora=("CMU-MOSI", "CMU-MOSEI"),
    metrics=("AUILC", "MAE", "Corr", "Acc2", "F1"),
    use="features drop out in test as they never did in training",
    avoid="whole modalities are missing for long: the joint features then lack a part that nothing fills in",
    ours="readout at the last segment, one step for both players, segments",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of outputs.
      widths: modality -> channels; their sum is the width of the transformer.
      segments: time steps of the transformer.
      heads, depth: of it.
      readout: the segment that is read, of those that are there.
      hidden: units between a joint vector and the outputs, and in R and D.
      rate: of the time steps that are dropped in the noisy copy.
      bounds: (lo, hi) of the outputs; None for logits.
      task: what compares outputs with targets in the term ``noisy``.
      share: of the discriminator's word in the term ``imitation``, the rest being the reconstruction's.
      dropout: of all parts.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    widths: Mapping[str, int]
    segments: int = 50
    heads: int = 8
    depth: int = 3
    readout: Literal["first", "last"] = "last"
    hidden: int = 128
    rate: float = 0.2
    bounds: tuple[float, float] | None = None
    task: Literal["regression", "classification"] = "classification"
    share: float = 0.6
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """CMU-MOSI, aligned: 50 words; how many features each modality has is ours."""
        text, audio = Conv1dEncoder("text", (50, 768), size=3), Conv1dEncoder("audio", (50, 5), size=3)
        modalities = (text, audio, Conv1dEncoder("video", (50, 20), size=9))
        widths = {"text": 96, "audio": 24, "video": 40}
        return cls(modalities, {"sentiment": 1}, widths, readout="first", bounds=(-3.0, 3.0), task="regression")

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Conv1dEncoder("audio", (6, 4), size=3), Conv1dEncoder("video", (4, 5), size=1)
        widths = {"audio": 8, "video": 8}
        return cls((audio, video), {"emotion": 3}, widths, segments=4, heads=2, depth=1, hidden=8, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> NIAT:
        return NIAT(self, rngs=rngs)


class Reconstructor(nnx.Module):
    """R(z) = tanh(W_3 leaky_relu(BN(DP(W_2 leaky_relu(DP(W_1 z))))))."""

    def __init__(self, width: int, hidden: int, *, dropout: float, rngs: nnx.Rngs):
        self.first = Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.second = Dense(hidden, hidden, axes=(HIDDEN, HIDDEN), rngs=rngs)
        self.norm = BatchNorm(hidden, rngs=rngs)
        self.third = Dense(hidden, width, axes=(HIDDEN, EMBED), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, z: Float[Array, "B C"], there: Bool[Array, " B"]) -> Float[Array, "B C"]:
        h = nnx.leaky_relu(self.dropout(self.first(z)))
        h = self.norm(self.dropout(self.second(h)), there)
        return jnp.tanh(self.third(nnx.leaky_relu(h)))


class Discriminator(nnx.Module):
    """D(z) = sigmoid(W_3 tanh(W_2 leaky_relu(W_1 BN(z)))), of which this is the logit."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(width, rngs=rngs)
        self.first = Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.second = Dense(hidden, hidden, axes=(HIDDEN, HIDDEN), rngs=rngs)
        self.third = Dense(hidden, 1, axes=(HIDDEN, CLASSES), rngs=rngs)

    def __call__(self, z: Float[Array, "B C"], there: Bool[Array, " B"]) -> Float[Array, " B"]:
        h = nnx.leaky_relu(self.first(self.norm(z, there)))
        return self.third(jnp.tanh(self.second(h)))[:, 0].astype(jnp.float32)


class NIAT(AudioVisualModel):
    """A causal transformer of joint features, trained on clean and noisy ones; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.widths, rngs=rngs)
        self.segments, self.readout, self.task = config.segments, config.readout, config.task
        self.rate, self.share = config.rate, config.share
        size = Size(sum(config.widths[m] for m in self.modalities), config.depth, config.heads)
        blocks = [Block(size, dropout=config.dropout, activation=nnx.relu, rngs=rngs) for _ in range(size.depth)]
        self.layers = Stack("fusion", [CausalLayer(block, "joint") for block in blocks])
        self.norm = BatchNorm(size.width, rngs=rngs)
        options = {"bounds": config.bounds, "hidden": config.hidden, "dropout": config.dropout}
        self.head = RegressionHead(size.width, config.classes, **options, rngs=rngs)
        self.reconstruct = Reconstructor(size.width, config.hidden, dropout=config.dropout, rngs=rngs)
        self.discriminate = Discriminator(size.width, config.hidden, rngs=rngs)
        self.deterministic = False
        self.rngs = rngs["dropout"].fork()

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """The output for the batch as it is, with the three terms in ``aux["losses"]``."""
        output = super().__call__(batch, keep)
        noisy = super().__call__(self._noisy(batch), keep)
        return dataclasses.replace(output, aux={**output.aux, "losses": self._terms(output, noisy, batch)})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From X_m to the outputs; ``aux["joint"]`` is z."""
        tokens = aligned(self.hidden(tokens, keep), self.segments)
        joined = jnp.concatenate([masked(tokens[m].values, tokens[m].valid) for m in self.modalities], axis=-1)
        valid = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        joint, _ = self.layers({"joint": tokens[self.modalities[0]].replace(values=joined, valid=valid)})
        values = joint["joint"].values
        z = last_pool(values, valid) if self.readout == "last" else last_pool(values[:, ::-1], valid[:, ::-1])
        logits = self.head(self.norm(z, valid.any(axis=1)))
        return Output(logits=logits, tokens=tokens, aux={"joint": z})

    def set_view(self, deterministic: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          deterministic: if True, the same time steps are dropped every time.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def _noisy(self, batch: Batch) -> Batch:
        """The batch without the features of some time steps, the same in all modalities."""
        key = jax.random.key(0) if self.deterministic else self.rngs()
        dropped = jax.random.bernoulli(key, self.rate, (batch.weight.shape[0], self.segments))
        return batch.replace(streams={m: _without(batch.streams[m], dropped) for m in self.modalities})

    def _terms(self, output: Output, noisy: Output, batch: Batch) -> dict[str, Mean]:
        weight = jnp.asarray(batch.weight)
        there = jnp.stack([stream.valid.any(axis=1) for stream in output.tokens.values()]).any(axis=0)
        clean, imitated = output.aux["joint"], noisy.aux["joint"]
        errors = []
        for head, prediction in noisy.logits.items():
            target = jnp.asarray(batch.target[head])
            if self.task == "regression":
                errors.append(jnp.abs(prediction - target).mean(axis=-1))
            else:
                errors.append(optax.losses.softmax_cross_entropy(prediction, target))
        real = self.discriminate(jax.lax.stop_gradient(clean), there)
        made = self.discriminate(jax.lax.stop_gradient(imitated), there)
        fooled = generator_loss(frozen(self.discriminate)(imitated, there), weight * there)
        difference = jnp.abs(jax.lax.stop_gradient(clean) - self.reconstruct(imitated, there)).astype(jnp.float32)
        restored = rows_mean(difference.mean(axis=-1), weight * there)
        mixed = self.share * fooled.total + (1 - self.share) * restored.total
        return {
            "noisy": rows_mean(sum(errors) / len(errors), weight),
            "imitation": Mean(mixed, restored.weight),
            "discrimination": discriminator_loss(real, made, weight * there),
        }


def _without(stream: Stream, dropped: Bool[Array, "B S"]) -> Stream:
    """0 where a step is dropped that is neither the first nor the last of those that are there."""
    valid = jnp.asarray(stream.valid)
    steps = valid.shape[1]
    place = jnp.arange(steps) * dropped.shape[1] // steps
    inner = (jnp.cumsum(valid, axis=1) > 1) & (jnp.cumsum(valid[:, ::-1], axis=1)[:, ::-1] > 1)
    return stream.replace(values=masked(jnp.asarray(stream.values), ~(dropped[:, place] & inner)))
