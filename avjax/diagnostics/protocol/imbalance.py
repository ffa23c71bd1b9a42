"""Whether one modality is ahead of the other: while it trained, in what the model says, in its gradients (1.11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.contribution.imbalance import MOMENTUM, imbalanced, log_ratios, scores, smoothed
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.ablation import remaining
from avjax.diagnostics.protocol.inside import inside
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.streams import Stream
from avjax.training.optimizer import path_names


def imbalance(study: Study) -> Found:
    """Ratios of what each modality alone gives the true class, and of gradients by its parameters.

    Over the training from what the run has written down; of the trained model on the diagnosed clips.
    """
    found = Found()
    if len(study.modalities) < 2:
        reason = "balance is between modalities, and the model has one"
        found.lines.append(skipped("contribution/imbalance_ratio", reason, estimator="probability of the true class"))
        return found
    _over_training(study, found)
    _of_clips(study, found)
    _of_gradients(study, found)
    return found


def _over_training(study: Study, found: Found) -> None:
    try:
        told = scores(study.history, study.probe.head)
        ratios = log_ratios(told.values)
    except Undefined as undefined:
        found.lines.append(skipped("contribution/imbalance_alarm", undefined.reason, estimator="training"))
        return
    for modality, ratio in ratios.items():
        mean = smoothed(ratio)
        fields = {"n": len(mean), "group": modality}
        estimator = f"training, by {told.estimator}, moving average {MOMENTUM:g}"
        found.lines += [
            number("contribution/imbalance_ratio", lambda mean=mean: float(mean[-1]),
                   estimator=f"{estimator}, at its end", **fields),
            number("contribution/imbalance_alarm", lambda mean=mean: imbalanced(mean, told.steps),
                   estimator=estimator, **fields),
        ]  # fmt: skip


def _of_clips(study: Study, found: Found) -> None:
    """s_m over the clips that have every modality: by the model's own logits of m, or when it is given m alone."""
    there = [np.asarray(study.clips.streams[m].valid).any(axis=1) for m in study.modalities]
    rows = np.flatnonzero(np.all(there, axis=0))
    if not len(rows):
        reason = "no clip has every modality"
        found.lines.append(skipped("contribution/imbalance_ratio", reason, estimator="probability of the true class"))
        return
    clips = study.clips.take(rows)
    own = inside(study.probe, clips).logits if isinstance(study.probe, ModelProbe) else {}
    ways = {"a forward pass of it alone": {m: study.said(remaining(study, clips, frozenset([m]), "drop")).logits
                                           for m in study.modalities}}  # fmt: skip
    if len(own) == len(study.modalities):
        ways["its own logits"] = dict(own)
    for way, logits in ways.items():
        true = {m: probabilities(z)[np.arange(len(rows)), clips.label] for m, z in logits.items()}

        def ratio(chosen: Int[np.ndarray, " R"], modality: str, true: Mapping[str, np.ndarray] = true) -> float:
            mean = {m: float(p[chosen].mean()) for m, p in true.items()}
            others = float(np.mean([value for m, value in mean.items() if m != modality]))
            if min(mean.values()) <= 0:
                raise Undefined("a modality gives the true class no probability at all: a ratio of it has no logarithm")
            return float(np.log10(mean[modality] / others))

        fill = {"fill": "drop"} if way.startswith("a forward") else {}
        for modality in study.modalities:
            found.lines.append(
                study.line("contribution/imbalance_ratio", lambda chosen, m=modality, of=ratio: of(chosen, m), clips,
                           estimator=f"diagnosed clips, {way}", target="label", group=modality, **fill)
            )  # fmt: skip


def _of_gradients(study: Study, found: Found) -> None:
    estimator = "diagnosed clips, parameters of that modality alone"
    if study.tier.gradients == 0:
        reason = f"left out of the tier {study.tier.name}"
        found.lines.append(skipped("contribution/gradient_norm_ratio", reason, estimator=estimator))
        return
    try:
        norms = gradient_norms(study.probe, study.part(study.tier.stressed))
        ratios = log_ratios({m: np.array([norm]) for m, norm in norms.items()})
    except Undefined as undefined:
        found.lines.append(skipped("contribution/gradient_norm_ratio", undefined.reason, estimator=estimator))
        return
    count = len(study.part(study.tier.stressed).rows)
    for modality, ratio in ratios.items():
        found.lines.append(
            number("contribution/gradient_norm_ratio", lambda ratio=ratio: float(ratio[0]), estimator=estimator,
                   target="label", n=count, group=modality)
        )  # fmt: skip


def gradient_norms(probe: Any, part: Part) -> dict[str, float]:
    """||dL/dtheta_m|| of L, the mean cross-entropy of the clips, by the parameters theta_m that only m has.

    Whose a parameter is its path tells, as for the rules of training (``encoders.audio``); what is shared is in none.

    Raises:
      Undefined: for a plain function, and where a modality has no parameters of its own.
    """
    if not isinstance(probe, ModelProbe):
        raise Undefined("a plain function has no parameters here")
    state = probe.state
    params = state.params if state.average is None else state.average
    owners = [
        next((name for name in path_names(path) if name in probe.modalities), None)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    if missing := [m for m in probe.modalities if m not in owners]:
        raise Undefined(f"no parameter of the model belongs to {missing[0]} alone")

    def loss(params: Any, rest: Any, streams: Mapping[str, Stream], label: jax.Array, weight: jax.Array) -> jax.Array:
        whole = {"params": params, **({} if rest.average is None else {"average": params})}
        output = probe.steps.output(dataclasses.replace(rest, **whole), probe.features(streams))
        rows = optax.losses.softmax_cross_entropy_with_integer_labels(
            output.logits[probe.head].astype(jnp.float32), label
        )
        return (weight * rows).sum()

    gradient, total = compiled(jax.grad(loss)), None
    for rows, full, streams in probe.batches(part.clips):
        weight = (np.arange(probe.batch) < len(rows)) / len(part.rows)
        found = gradient(params, state, streams, part.clips.label[full], weight.astype(np.float32))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    norms: dict[str, float] = {}
    for owner, leaf in zip(owners, jax.tree.leaves(total), strict=True):
        if owner is not None:
            norms[owner] = norms.get(owner, 0.0) + float((np.asarray(leaf, np.float64) ** 2).sum())
    return {m: float(np.sqrt(norms[m])) for m in probe.modalities}
