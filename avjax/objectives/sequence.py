"""Losses on sequences: transcripts (CTC, attention decoder, both), and events in the segments of a clip.

A transcript is a target [B, L] of token numbers 1 to K - 1 from the left, as integers or floats, and 0 after the last.
0 is the blank of CTC and the end of the sentence to a decoder, so that both speak of the same K tokens.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Num

from avjax.nn.convolution import masked
from avjax.objectives.rows import LOWEST, VALID, labelled, require_steps, rows_mean, steps_of, valid_steps, weight_of
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class Transcription:
    """CTC, cross-entropy of an attention decoder, or both (Watanabe et al. 2017):

        L = ctc * L_ctc + (1 - ctc) * L_attention,   in nats a row; mean over rows, then over heads

    ``logits[head]`` [B, T, K] are those of CTC, or ``aux["ctc"][head]`` where a model's logits are of whole clips; at
    the steps that ``aux["valid"][head]`` [B, T] names, or all;
    ``aux["decoder"][head]`` [B, L + 1, K] those of the decoder under teacher forcing, whose last target is 0. The CTC
    loss of ``logits[head/m]`` is reported, and added with the weight ``per_modality``.

    Attributes:
      ctc: share of CTC; without a decoder's logits in the output it has to be 1.
      label_smoothing: of the decoder's targets, towards the uniform distribution.
      per_modality: weight of the sum of the modalities' own CTC losses.
    """

    ctc: float = 1.0
    label_smoothing: float = 0.0
    per_modality: float = 0.0

    task: ClassVar[str] = "transcripts"

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        parts, losses = {}, []
        steps = output.aux.get("ctc", output.logits)
        for name, logits in steps.items():
            target = jnp.asarray(batch.target[name.partition("/")[0]]).astype(jnp.int32)
            weight = weight_of(name, output, jnp.asarray(batch.weight))
            parts[f"ctc/{name}"] = ctc(logits, target, valid_steps(name, output, logits.shape[:2]), weight)
        heads = [name for name in steps if "/" not in name]
        for head in heads:
            own = [part for name, part in parts.items() if name.startswith(f"ctc/{head}/")]
            loss = self.ctc * parts[f"ctc/{head}"].value + self.per_modality * sum(part.value for part in own)
            if self.ctc < 1:
                logits = self._decoder(output, head)
                target = jnp.asarray(batch.target[head]).astype(jnp.int32)
                part = attention_decoder(logits, target, jnp.asarray(batch.weight), self.label_smoothing)
                parts[f"attention/{head}"] = part
                loss = loss + (1 - self.ctc) * part.value
            losses.append(loss)
        return sum(losses) / len(losses), {f"loss/{name}": part for name, part in parts.items()}

    def predictions(self, output: Output) -> dict[str, Num[Array, "B T ..."]]:
        """The probability of every token, blank among them, at every step of CTC, and ``head/valid``."""
        steps = output.aux.get("ctc", output.logits)
        heads = [name for name in steps if "/" not in name]
        valid = {f"{head}/{VALID}": valid_steps(head, output, steps[head].shape[:2]) for head in heads}
        return {name: jax.nn.softmax(logits) for name, logits in steps.items()} | valid

    def _decoder(self, output: Output, head: str) -> Array:
        decoder = output.aux.get("decoder", {})
        if head not in decoder:
            raise ValueError(f"the model has no decoder for {head!r}: set --objective.ctc 1")
        return decoder[head]


def ctc(
    logits: Float[Array, "B T K"],
    target: Int[Array, "B L"],
    valid: Bool[Array, "B T"],
    weight: Float[Array, " B"],
) -> Mean:
    """-log of the probability of all paths that collapse to the target (Graves et al. 2006), in nats a row.

    A row whose valid steps are too few for its tokens, and a blank between equal ones, does not count. Valid steps may
    stand anywhere.
    """
    valid = valid & (weight > 0)[:, None]
    tokens = target > 0
    repeats = ((target[:, 1:] == target[:, :-1]) & tokens[:, 1:]).sum(axis=1)
    possible = valid.sum(axis=1) >= tokens.sum(axis=1) + repeats
    rows = optax.ctc_loss(
        masked(logits, valid).astype(jnp.promote_types(logits.dtype, jnp.float32)),
        1.0 - valid,
        target,
        1.0 - tokens,
    )
    return rows_mean(rows, weight * (possible & valid.any(axis=1)))


def attention_decoder(
    logits: Float[Array, "B M K"], target: Int[Array, "B L"], weight: Float[Array, " B"], label_smoothing: float = 0.0
) -> Mean:
    """Cross-entropy of every token and of the end behind them, [B, L + 1], summed over a row's tokens."""
    target = jnp.pad(target, ((0, 0), (0, 1)))
    # The tokens, and the first 0 behind them.
    counted = jnp.arange(target.shape[1]) <= (target > 0).sum(axis=1, keepdims=True)
    logits = masked(logits, counted & (weight > 0)[:, None])
    classes = optax.losses.smooth_labels(jax.nn.one_hot(target, logits.shape[-1]), label_smoothing)
    rows = masked(optax.losses.softmax_cross_entropy(logits, classes), counted).sum(axis=1)
    return rows_mean(rows, weight)


@dataclasses.dataclass(frozen=True)
class SegmentEvents:
    """Which class of event a clip has, and in which of its segments (CMRAN, Xu et al. 2020, as released).

        L = BCE(eventness) + (1 - per_modality) CE(class) + per_modality * mean_m CE(class of m)

    ``logits[eventness]`` [B, T, 1] says of a segment whether the event is in it, ``logits[head]`` of the class: [B, K]
    for the clip, or [B, T, K] for its segments, pooled over time. With ``supervision="clip"`` the class is all that is
    learned from (multiple instances), from max_t sigmoid(eventness_t) * logits_t where the model has an eventness. DMIN
    (Liu et al. 2022) has ``per_modality=0.1``.

    A model whose logits are of whole clips has those of segments in ``aux["segments"]``: ``eventness`` [B, T], the head
    [B, T, K], ``valid`` [B, T]. Where the target is of segments [B, T, K], as with the background as a class (Tian et
    al. 2018), CE(class) is the mean over segments, each against its own; with ``supervision="clip"`` it is that of the
    clip against what any segment has, and the background, the last class, where none has an event.

    Attributes:
      head: of the class; target [B, K] or [B, T, K]. Empty where there is but the eventness.
      eventness: head of the segments; target [B, T, 1], 1 where the event is. Empty for a model without.
      supervision: segments where each has a label, clip where only the clip has.
      pooling: of class logits over segments: max or mean.
      per_modality: share of the modalities' own class losses.
      task: what is measured: the class of each segment, or the moments at which something is.
    """

    head: str = "event"
    eventness: str = "eventness"
    supervision: Literal["segments", "clip"] = "segments"
    pooling: Literal["max", "mean"] = "max"
    per_modality: float = 0.0
    task: Literal["segments", "moments"] = "segments"

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        parts, loss = {}, jnp.zeros(())
        target = jnp.asarray(batch.target[self.head]) if self.head else loss
        if target.ndim == 3 and self.supervision == "clip":
            target = label_of_clip(target)
        output = self._with_segments(output, of_classes=target.ndim == 3)
        for name in output.logits:
            if name.partition("/")[0] == self.head:
                weight = weight_of(name, output, jnp.asarray(batch.weight))
                parts[f"loss/{name}"] = self._classes(name, output, batch.replace(weight=weight), target)
        if self.head:
            own = [part.value for name, part in parts.items() if name != f"loss/{self.head}"]
            loss = parts[f"loss/{self.head}"].value
            if own and self.per_modality:
                loss = (1 - self.per_modality) * loss + self.per_modality * sum(own) / len(own)
        if self.supervision == "segments" and self.eventness:
            logits, target = output.logits[self.eventness], jnp.asarray(batch.target[self.eventness])
            require_steps(self.eventness, logits.shape[1], target.shape[1])
            valid = labelled(valid_steps(self.eventness, output, logits.shape[:2]), self.eventness, batch)
            part = eventness(logits[..., 0], target[..., 0], valid, jnp.asarray(batch.weight))
            parts[f"loss/{self.eventness}"] = part
            loss = loss + part.value
        return loss, parts

    def predictions(self, output: Output) -> dict[str, Num[Array, "B ..."]]:
        """The probability of each class, by segment where the model tells; that of the event [B, T, 1]; valid steps."""
        output, found = self._with_segments(output, of_classes=True), {}
        for name, logits in output.logits.items():
            if name.partition("/")[0] in (self.head, self.eventness):
                found[name] = jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)
                if logits.ndim == 3 and "/" not in name:
                    found[f"{name}/{VALID}"] = valid_steps(name, output, logits.shape[:2])
        return found

    def _with_segments(self, output: Output, of_classes: bool) -> Output:
        """With the logits of segments that are in ``aux["segments"]`` as logits like any other."""
        heads = (self.eventness, self.head) if of_classes else (self.eventness,)
        names = [name for name in output.aux.get("segments", {}) if name and name.partition("/")[0] in heads]
        steps = {name: steps_of(name, output) for name in names}
        logits = {**output.logits, **{name: values for name, (values, _) in steps.items()}}
        valid = {name: there for name, (_, there) in steps.items()}
        if VALID in output.aux.get("segments", {}):
            valid = dict.fromkeys((self.head, self.eventness), output.aux["segments"][VALID]) | valid
        return dataclasses.replace(
            output, logits=logits, aux={**output.aux, "valid": valid | output.aux.get("valid", {})}
        )

    def _classes(self, name: str, output: Output, batch: Batch, target: Num[Array, "B ..."]) -> Mean:
        """Cross-entropy of the clip's class, or of that of every segment."""
        weight = batch.weight
        if target.ndim == 2:
            rows = optax.losses.softmax_cross_entropy(self._pooled(name, output, weight), target)
            return rows_mean(rows, weight)
        logits = output.logits[name]
        require_steps(name, logits.shape[1], target.shape[1])
        valid = labelled(valid_steps(name, output, logits.shape[:2]), self.head, batch) & (weight > 0)[:, None]
        each = masked(optax.losses.softmax_cross_entropy(masked(logits, valid), target), valid)
        return rows_mean(each.sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1), weight * valid.any(axis=1))

    def _pooled(self, name: str, output: Output, weight: Float[Array, " B"]) -> Float[Array, "B K"]:
        logits = output.logits[name]
        gated = self.supervision == "clip" and self.eventness in output.logits
        if logits.ndim == 2 and not gated:
            return masked(logits, weight > 0)
        event = output.logits[self.eventness] if gated else jnp.zeros((*logits.shape[:2], 1))
        if logits.ndim == 2:
            logits = jnp.repeat(logits[:, None], event.shape[1], axis=1)
        valid = valid_steps(name, output, logits.shape[:2]) & (weight > 0)[:, None]
        logits = masked(logits, valid)
        if gated:
            logits = logits * jax.nn.sigmoid(masked(event, valid))
        if self.pooling == "mean":
            return logits.sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)[:, None]
        top = jnp.where(valid[..., None], logits, LOWEST).max(axis=1)
        return masked(top, valid.any(axis=1))


def label_of_clip(target: Num[Array, "B T K"]) -> Float[Array, "B K"]:
    """What multiple instances tell: the classes that any segment has, in equal shares; the last where there is none."""
    events = (target[..., :-1] > 0).any(axis=1)
    found = jnp.concatenate([events, ~events.any(axis=1, keepdims=True)], axis=1).astype(jnp.float32)
    return found / found.sum(axis=1, keepdims=True)


def eventness(
    logits: Float[Array, "B T"], target: Num[Array, "B T"], valid: Bool[Array, "B T"], weight: Float[Array, " B"]
) -> Mean:
    """Binary cross-entropy of every segment, mean over the valid ones of a row, then over rows."""
    valid = valid & (weight > 0)[:, None]
    each = masked(optax.losses.sigmoid_binary_cross_entropy(masked(logits, valid), target), valid)
    return rows_mean(each.sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1), weight * valid.any(axis=1))
