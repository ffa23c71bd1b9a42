"""COM, contrastive masked attention for incomplete multimodal learning.

    X_m    = encoder_m(x_m), or one learned token e_m where the modality is missing
    S      = [c | X_1 | ... | X_M],   S <- Block_l(S) over what is there,   logits = W LN(S)[0]
    z_m    = mean_n X_m of a modality that is there, G(z_others) of one that is not

    contrastive      NCE(P_i z_i, P_j z_j), mean over pairs of modalities
    reconstruction   |G_ij(z_i) - z_j|^2 where both are there

The source's, from its abstract: contrastive learning across modalities with augmentation by a generator in a two-player
game, and masks that restrict attention to observed modalities, one architecture for all patterns of what is missing.
The source could not be read in full; the form above is ours: where the learned token stands (the rest of the missing
modality's places is hidden), G_ij, a network of one hidden layer from one modality's vector to another's, whose mean
over the modalities that are there stands in for a missing one, and that gradients are turned round between the
contrastive term and G, so that one step makes encoders lower it and generators raise it.

Train with ``WithTerms(Classification(), (("contrastive", 0.1), ("reconstruction", 1.0)))`` (weights are ours).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense, layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, Patches
from avjax.nn.fusion import MergedFusion, Tokens, present
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_of_present, mean_pool
from avjax.nn.stack import Stack
from avjax.nn.transformer import SIZES, Block, Size
from avjax.objectives.adversarial import reverse_gradient
from avjax.objectives.contrastive import info_nce
from avjax.objectives.rows import rows_mean
from avjax.streams import Batch, Mean, Output, Stream

SYSTEM = System(
    name="COM",
    source="COM [35]",
    mechanism="self",
    fusion="early",
    architecture="Transformer",
    task="classification with missing modalities",
    corpora=(),
    metrics=("accuracy",),
    use="modalities are missing in training and at test, in any pattern",
    avoid="everything is always there: the generators then cost and give nothing",
    ours="the whole form but for its ideas: masks, a contrastive term, a generator as its opponent",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of classes.
      size: of the transformer over all tokens.
      projection: width of the vectors that the contrastive term compares.
      temperature: of that term.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = SIZES["S"]
    projection: int = 128
    temperature: float = 0.07
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 3 s of 128 mel bands at 100 Hz and 8 frames of 112 x 112; 6 layers."""
        audio, video = Patches("audio", (304, 128), (16, 16)), Patches("video", (8, 112, 112, 3), (2, 16, 16))
        return cls((audio, video), {"emotion": 6}, Size(384, 6, 6))

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Patches("audio", (4, 8), (2, 4)), Patches("video", (2, 8, 8, 3), (1, 4, 4))
        return cls((audio, video), {"emotion": 3}, Size(16, 1, 2), projection=8, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> COM:
        return COM(self, rngs=rngs)


class Generator(nnx.Module):
    """G(z) = W_2 relu(W_1 z), from the vector of one modality to another's."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.up = Dense(width, 2 * width, axes=(EMBED, HIDDEN), rngs=rngs)
        self.down = Dense(2 * width, width, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(self, z: Float[Array, "B C"]) -> Float[Array, "B C"]:
        return self.down(nnx.relu(self.up(z)))


class COM(AudioVisualModel):
    """A transformer over whatever is there, and generators of what is not; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size = config.size
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        self.temperature = config.temperature
        self.class_token = learned_tokens(1, size.width, rngs)
        self.absent = nnx.Dict({m: learned_tokens(1, size.width, rngs) for m in names})
        order = ("class", *names)
        blocks = [Block(size, dropout=config.dropout, rngs=rngs) for _ in range(size.depth)]
        self.layers = Stack("fusion", [MergedFusion(block, order) for block in blocks])
        self.norm = layer_norm(size.width, rngs)
        self.classify = Classifier(size.width, config.classes, rngs=rngs)
        self.project = nnx.Dict(
            {m: Dense(size.width, config.projection, axes=(EMBED, HIDDEN), rngs=rngs) for m in names}
        )
        pairs = itertools.permutations(names, 2)
        self.generate = nnx.Dict({f"{i}_to_{j}": Generator(size.width, rngs=rngs) for i, j in pairs})

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """As of every model, with the two terms in ``aux["losses"]``."""
        output = super().__call__(batch, keep)
        terms = self._terms(output.aux["vectors"], present(output.tokens), jnp.asarray(batch.weight))
        return dataclasses.replace(output, aux={**output.aux, "losses": terms})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """The logits; ``aux["vectors"]`` holds z_m of each modality that is there, before the others are heard."""
        tokens = self.hidden(tokens, keep)
        vectors = {m: mean_pool(tokens[m].values, tokens[m].valid) for m in self.modalities}
        union = {m: self._standing_in(m, tokens[m]) for m in self.modalities}
        first = tokens[self.modalities[0]]
        rows = first.valid.shape[0]
        start = jnp.broadcast_to(self.class_token[...].astype(first.values.dtype), (rows, 1, first.values.shape[-1]))
        union["class"] = first.replace(values=start, valid=jnp.ones((rows, 1), bool))
        union, _ = self.layers(union)
        logits = self.classify(self.norm(union["class"].values[:, 0]))
        merged = {m: tokens[m].replace(values=masked(union[m].values, tokens[m].valid)) for m in self.modalities}
        return Output(logits=logits, tokens=merged, aux={"vectors": vectors})

    def _standing_in(self, modality: str, tokens: Stream) -> Stream:
        """The tokens; those of a missing modality are e_m, and hidden."""
        missing = ~tokens.valid.any(axis=1, keepdims=True)
        first = missing & (jnp.arange(tokens.valid.shape[1]) == 0)
        token = self.absent[modality][...].astype(tokens.values.dtype)
        values = jnp.where(first[..., None], token, masked(tokens.values, tokens.valid))
        return tokens.replace(values=values, valid=tokens.valid | first)

    def _terms(
        self, z: Mapping[str, Float[Array, "B C"]], there: Mapping[str, Bool[Array, " B"]], weight: Float[Array, " B"]
    ) -> dict[str, Mean]:
        names = self.modalities
        fixed = jax.tree.map(jax.lax.stop_gradient, z)
        made = {(i, j): self.generate[f"{i}_to_{j}"](fixed[i]) for i, j in itertools.permutations(names, 2)}
        whole = {
            j: jnp.where(
                there[j][:, None],
                z[j],
                reverse_gradient(mean_of_present({i: made[i, j] for i in names if i != j}, there)),
            )
            for j in names
        }
        anything = weight * jnp.stack(list(there.values())).any(axis=0)
        near = [
            info_nce(self.project[i](whole[i]), self.project[j](whole[j]), anything, temperature=self.temperature)
            for i, j in itertools.combinations(names, 2)
        ]
        errors = [
            rows_mean(
                jnp.square(guess.astype(jnp.float32) - fixed[j].astype(jnp.float32)).sum(-1),
                weight * (there[i] & there[j]),
            )
            for (i, j), guess in made.items()
        ]
        return {"contrastive": sum(near, _none()), "reconstruction": sum(errors, _none())}


def _none() -> Mean:
    return Mean(jnp.zeros(()), jnp.zeros(()))
