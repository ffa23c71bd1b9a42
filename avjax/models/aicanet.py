"""AICANet: adversarial-metric learning with correction attention, for matching voices and faces.

Wang et al. 2025: which of two faces does a voice belong to? For voice v and each face f by itself:

    S_m, P_m = projections of the map X_m to C' channels             shared and private
    s_m    = 3 x 3 maxima of S_m, of unit length                     C' channels of 9 numbers
    e      = tanh MLP(CompactBilinear(s_v, s_f))                     do they match?
    I_m    = softmax(10 Shrink(sgn(e) s_m s_n^T)) S_m                channels by channels, n being the other
    R_m    = Attention(S_m, I_m, S_m)                                over places
    P_m    <- softmax(10 Shrink(U U^T)) P_m,   U = P_m, each channel of unit length
    X_m    <- ModalityMix(X_m, sigmoid(D R_m), sigmoid(D' P_m))
    z_m    = tanh W_2 relu(W_1 (3 x 3 means of X_m)),   logits = W [exp(z_v1 - z_f1); exp(z_v2 - z_f2)]

The release's: everything above with C' = 128, C = 512, 4000 numbers in the bilinear vector, embeddings of 128 through
256; voices from a ResNetSE-34L over log-mel bands, faces of 224 x 224 from a ResNet-18; the losses below, matching and
distance with weight 2; spectral normalisation of S, P and W_1, W_2 (``spectral``); a hard threshold; what is behind the
projections shared by voices and faces but for D'; a discriminator of one layer over z, which moves first in a batch.
Ours: a ResNet-18 over the spectrogram, the soft threshold (the hard one never learns), unit length along places in
place of the batch, layers of their own for voices and faces, a discriminator of two layers over s whose gradient is
turned round, and both faces in one pass, the voice once with each. A pair that lacks its voice or its face has zeros
for its vectors. Which face matches is the class of the only head. With the optimizer
``Alternating(AdamW(...), ("discriminate",), rate=0.1)`` the discriminator and the rest move in turns, as released.

``aux["losses"]`` holds ``distance`` (relative distance stretching of voice and matching face against those of other
rows), ``modality`` (telling voices from faces by s, against the projections) and ``coefficient``, the distance of
sigmoid(5 e) to whether a pair matches, whose weight the release anneals by a cosine. Train with
``WithTerms(Classification(), (("distance", 1.0), ("modality", 0.5), ("coefficient", 0.25)))``, which is the release's
ratio of the first to matching; the other two weights are ours. ``Frontend.triplets`` makes such batches of clips with a
voice and a face; where the target says who is who, one person's rows are no strangers to one another, and
``aux["scores"]`` holds what every voice's pair with the own face of every row adds to the logit of its place over the
other's, the mean of both places (ours): each voice's gallery, and each face's, which ``Matching("choice")`` keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from avjax.models import System
from avjax.nn.attention import attend, cross_mask
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense, SpectralDense
from avjax.nn.encoders import Encoder, Precomputed, ResNet
from avjax.nn.fusion import CompactBilinear, Tokens
from avjax.nn.gates import ModalityMix, SignedGate
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, l2_normalise, max_pool, mean_pool
from avjax.nn.scoring import AdaptiveShrinkage
from avjax.nn.statistics import recording
from avjax.objectives.adversarial import modality_discrimination, reverse_gradient
from avjax.objectives.contrastive import relative_distance
from avjax.objectives.rows import distance, rows_mean
from avjax.streams import Batch, Mean, Output, Stream
from kernels.attention import Layout

SYSTEM = System(
    name="AICANet",
    source="Wang et al. 2025 [30]",
    mechanism="correction",
    fusion="hybrid",
    architecture="CNN",
    task="voice-face matching",
    corpora=("VoxCeleb1", "VoxCeleb2"),
    metrics=("accuracy", "AUC"),
    use="a voice and a face are to be compared though nothing says when, as recordings of different days",
    avoid="sound and picture are of one moment: nothing here is aligned in time",
    ours="voice encoder, threshold, unit length, one pass for both faces, one step for both players",
)

VOICE, FACES = "voice", ("face_a", "face_b")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of voice, face_a and face_b with a token for every cell and the extents of their maps in
        ``grid``; the faces' differ in name alone and share their weights.
      classes: the only head: 2 classes, face_a and face_b.
      width: C.
      projection: C'.
      bilinear: numbers in the joint vector of a pair.
      hidden: units before the embedding, and those of the pseudo-label and the discriminator.
      embedding: of z.
      spectral: spectral normalisation of projections and embedding.
      identity: head of the target that says who is who [B, K], where there is one.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 512
    projection: int = 128
    bilinear: int = 4000
    hidden: int = 256
    embedding: int = 128
    spectral: bool = False
    identity: str = "identity"

    def __post_init__(self) -> None:
        names = tuple(encoder.modality for encoder in self.modalities)
        if set(names) != {VOICE, *FACES} or list(self.classes.values()) != [2]:
            raise ValueError(
                f"modalities {names}, classes {dict(self.classes)}: AICANet matches a voice with two faces"
            )

    @classmethod
    def paper(cls) -> Config:
        """VoxCeleb: 3 s of 64 mel bands at 100 Hz (ours), faces of 224 x 224."""
        faces = (ResNet(name, (1, 224, 224, 3), cells=True) for name in FACES)
        return cls((ResNet(VOICE, (300, 64), cells=True), *faces), {"match": 2}, spectral=True)

    @classmethod
    def tiny(cls) -> Config:
        faces = (Precomputed(name, (1, 2, 3, 5)) for name in FACES)
        sizes = {"width": 8, "projection": 8, "bilinear": 32, "hidden": 8, "embedding": 8}
        return cls((Precomputed(VOICE, (4, 6)), *faces), {"match": 2}, **sizes)

    def build(self, rngs: nnx.Rngs) -> AICANet:
        return AICANet(self, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projected:
    """S and P [B, N, C'], s [B, 9, C'] of a map, and where they are valid."""

    shared: Float[Array, "B N C"]
    private: Float[Array, "B N C"]
    maxima: Float[Array, "B 9 C"]
    valid: Bool[Array, "B N"]


class Branch(nnx.Module):
    """What voices have of their own, and faces.

    Args:
      grid: extents of the map, its cells in this order; the last is its width, all before are its height.
    """

    def __init__(self, config: Config, grid: tuple[int, ...], *, rngs: nnx.Rngs):
        width, inner = config.width, config.projection
        self.grid = (math.prod(grid[:-1]), grid[-1])
        linear = SpectralDense if config.spectral else Dense
        self.shared = linear(width, inner, axes=(EMBED, HIDDEN), rngs=rngs)
        self.private = linear(width, inner, axes=(EMBED, HIDDEN), rngs=rngs)
        self.shrink_shared = AdaptiveShrinkage(inner, inner, rngs=rngs)
        self.shrink_private = AdaptiveShrinkage(inner, inner, rngs=rngs)
        self.decode_shared = Dense(inner, width, axes=(HIDDEN, EMBED), rngs=rngs)
        self.decode_private = Dense(inner, width, axes=(HIDDEN, EMBED), rngs=rngs)
        self.mix = ModalityMix(width, rngs=rngs)
        self.hidden = linear(9 * width, config.hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.embed = linear(config.hidden, config.embedding, axes=(HIDDEN, EMBED), rngs=rngs)

    def project(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Projected:
        """S, P and s."""
        shared, private = masked(self.shared(x), valid), masked(self.private(x), valid)
        maxima = jnp.stack([max_pool(shared, valid & part) for part in thirds(*self.grid)], axis=1)
        return Projected(shared, private, jnp.swapaxes(l2_normalise(jnp.swapaxes(maxima, 1, 2)), 1, 2), valid)

    def correct(
        self,
        x: Float[Array, "B N C"],
        own: Projected,
        scores: Float[Array, "B P P"],
        there: Bool[Array, " B"],
        site: str,
    ) -> Float[Array, "B D"]:
        """z of a map and of the signed scores of its channels with the other's; 0 in rows without a pair."""
        inter = _weigh(self.shrink_shared, scores, own.shared, there)
        channels = l2_normalise(jnp.swapaxes(own.private, 1, 2))
        alike = jnp.einsum("bcn,bdn->bcd", channels, channels, precision="highest")
        private = _weigh(self.shrink_private, alike, own.private, there)
        layout = Layout((site,), own.valid.shape[1:])
        parts = (part[:, :, None] for part in (own.shared, inter, own.shared))
        refined = attend(*parts, cross_mask(layout, layout, own.valid), site=site)[:, :, 0]
        decoded = nnx.sigmoid(self.decode_shared(refined)), nnx.sigmoid(self.decode_private(private))
        mixed = self.mix(masked(x, own.valid), *(masked(part, own.valid) for part in decoded), own.valid)
        means = [mean_pool(mixed, own.valid & part) for part in thirds(*self.grid)]
        z = jnp.tanh(self.embed(nnx.relu(self.hidden(jnp.concatenate(means, axis=-1)))))
        return masked(z, there)


class Discriminator(nnx.Module):
    """W_2 relu(W_1 s): logits of face and voice."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.hidden = Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.tell = Dense(hidden, 2, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(self, shared: Float[Array, "B C"]) -> Float[Array, "B 2"]:
        return self.tell(nnx.relu(self.hidden(shared))).astype(jnp.float32)


def _weigh(
    shrink: AdaptiveShrinkage, scores: Float[Array, "B C C"], x: Float[Array, "B N C"], there: Bool[Array, " B"]
) -> Float[Array, "B N C"]:
    """softmax(10 Shrink(scores)) x, channel by channel."""
    weights = shrink(scores[:, None], there[:, None, None, None])[:, 0]
    return jnp.einsum("bcd,bnd->bnc", weights.astype(x.dtype), x, precision="highest")


def _between(pair: Mapping[str, Array]) -> Float[Array, "B D"]:
    """exp(z_v - z_f), 0 where there is no pair."""
    return masked(jnp.exp(pair["voice"] - pair["face"]), pair["there"])


def _choose(first: Bool[Array, " B"], a: Array, b: Array) -> Array:
    """Rows of a where ``first``, else of b."""
    return jnp.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def thirds(height: int, width: int) -> Bool[Array, "9 N"]:
    """The cells of 3 x 3 parts of a map, as adaptive pooling has them: from floor(i n / 3) to ceil((i + 1) n / 3)."""

    def axis(extent: int) -> np.ndarray:
        place = np.arange(extent)
        return np.stack([(place >= i * extent // 3) & (place < -(-(i + 1) * extent // 3)) for i in range(3)])

    return jnp.asarray((axis(height)[:, None, :, None] & axis(width)[None, :, None, :]).reshape(9, -1))


class AICANet(AudioVisualModel):
    """A voice with each of two faces; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        # One encoder sees both faces.
        del self.encoders[FACES[1]]
        grids = {encoder.modality: encoder.grid for encoder in config.modalities}
        self.head, self.identity = next(iter(config.classes)), config.identity
        self.voice, self.face = (Branch(config, grids[m], rngs=rngs) for m in (VOICE, FACES[0]))
        inner = config.projection
        self.joint = CompactBilinear((VOICE, "face"), (9 * inner, 9 * inner), config.bilinear, rngs=rngs)
        self.sign = SignedGate(config.bilinear, inner, rngs=rngs)
        self.discriminate = Discriminator(9 * inner, config.hidden, rngs=rngs)
        self.classify = Classifier(2 * config.embedding, config.classes, rngs=rngs)

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """As of every model, with the three terms in ``aux["losses"]`` and the scores of all pairs."""
        output = super().__call__(batch, keep)
        chosen = jnp.asarray(batch.target[self.head]).argmax(axis=-1) == 0
        weight = jnp.asarray(batch.weight)
        known = batch.target.get(self.identity)
        who = jnp.arange(len(weight)) if known is None else jnp.asarray(known).argmax(axis=-1)
        terms = self._terms(output.aux["pairs"], chosen, who, weight)
        scores = self._scores(output.tokens, chosen, who, weight)
        return dataclasses.replace(output, aux={**output.aux, "losses": terms, "scores": scores})

    def encoder(self, modality: str) -> nnx.Module:
        return self.encoders[FACES[0] if modality in FACES else modality]

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From the maps to the logits; ``aux["pairs"]`` holds the vectors of both pairs, face -> name -> [B, ...]."""
        tokens = self.hidden(tokens, keep)
        branches = {VOICE: self.voice, **dict.fromkeys(FACES, self.face)}
        parts = {m: branches[m].project(tokens[m].values, tokens[m].valid) for m in self.modalities}
        voice = tokens[VOICE], parts[VOICE]
        pairs = {face: self._pair(voice, (tokens[face], parts[face]), face) for face in FACES}
        between = jnp.concatenate([_between(pair) for pair in pairs.values()], axis=-1)
        return Output(self.classify(between), tokens, aux={"pairs": pairs})

    def _pair(self, voice: tuple[Stream, Projected], face: tuple[Stream, Projected], site: str) -> dict[str, Array]:
        (v, voices), (f, faces) = voice, face
        there = v.valid.any(axis=1) & f.valid.any(axis=1)
        flat = {VOICE: voices.maxima.reshape(len(there), -1), "face": faces.maxima.reshape(len(there), -1)}
        scores = jnp.einsum("bkc,bkd->bcd", voices.maxima, faces.maxima, precision="highest")
        scores, label = self.sign(scores, self.joint(flat), there)
        z = self.voice.correct(v.values, voices, scores, there, f"{VOICE}_{site}")
        other = self.face.correct(f.values, faces, jnp.swapaxes(scores, 1, 2), there, site)
        shared = {f"shared_{name}": vector for name, vector in flat.items()}
        return {"voice": z, "face": other, "label": label, "there": there, **shared}

    def _scores(
        self, tokens: Tokens, chosen: Bool[Array, " B"], who: Int[Array, " B"], weight: Float[Array, " B"]
    ) -> dict[str, Float[Array, "B B"]]:
        """Of voices with their galleries, the faces of all rows, and of faces with theirs.

        The own comes first, then those of the rows behind, around the end; -inf where there is no pair, or another one
        of the same person.
        """
        # Batch statistics are those of triplets, in training too: pairs of a gallery are no examples.
        model = nnx.view(self, use_running_average=True, raise_if_not_found=False)
        own = jax.tree.map(lambda a, b: _choose(chosen, a, b), tokens[FACES[0]], tokens[FACES[1]])
        voice = tokens[VOICE], model.voice.project(tokens[VOICE].values, tokens[VOICE].valid)
        face = own, model.face.project(own.values, own.valid)
        rows, (graph, state) = jnp.arange(len(weight)), nnx.split(model)

        def ahead(step: Array) -> Array:
            """Of every voice with the face that lies so many rows ahead."""
            other = jax.tree.map(lambda x: jnp.roll(x, -step, axis=0), face)
            # A copy, since what layers keep beside parameters cannot be written to from inside a loop.
            inner = nnx.merge(graph, state, copy=True)
            pair = inner._pair(voice, other, FACES[0])
            behind = (rows + step) % len(rows)
            possible = pair["there"] & (weight > 0) & (weight[behind] > 0) & ((who != who[behind]) | (step == 0))
            u = _between(pair)
            first, second = (
                inner.classify(jnp.concatenate(halves, axis=-1))[self.head]
                for halves in ((u, jnp.zeros_like(u)), (jnp.zeros_like(u), u))
            )
            score = (first[:, 0] - first[:, 1] + second[:, 1] - second[:, 0]) / 2
            return jnp.where(possible, score, -jnp.inf)

        with recording(()):
            by_step = jax.lax.map(ahead, rows)
        back = by_step[-rows[:, None] % len(rows), (rows[:, None] + rows[None]) % len(rows)]
        return {"voice_to_face": by_step.T, "face_to_voice": back.T}

    def _terms(
        self,
        pairs: Mapping[str, Mapping[str, Array]],
        chosen: Bool[Array, " B"],
        who: Int[Array, " B"],
        weight: Float[Array, " B"],
    ) -> dict[str, Mean]:
        first, second = (pairs[face] for face in FACES)
        voice, face, there = (_choose(chosen, first[name], second[name]) for name in ("voice", "face", "there"))
        apart = relative_distance(voice, face, who, weight * there)
        told = Mean(jnp.zeros(()), jnp.zeros(()))
        for pair in pairs.values():
            # What made the vectors is taught to hide what they are.
            logits = {m: self.discriminate(reverse_gradient(pair[f"shared_{m}"])) for m in ("face", VOICE)}
            told = told + modality_discrimination(logits, dict.fromkeys(logits, weight * pair["there"]))
        there = jnp.stack([first["there"], second["there"]], axis=-1)
        same = jnp.stack([chosen, ~chosen], axis=-1).astype(jnp.float32)
        believed = nnx.sigmoid(5 * jnp.stack([first["label"], second["label"]], axis=-1).astype(jnp.float32))
        wrong = rows_mean(distance(jnp.where(there, believed, same), same), weight * there.any(axis=-1))
        return {"distance": apart, "modality": told, "coefficient": wrong}
