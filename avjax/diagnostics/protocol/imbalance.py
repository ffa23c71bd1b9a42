"""Whether one modality is ahead of the other: while it trained, in what the model says, in its gradients (1.11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.imbalance import MOMENTUM, imbalanced, log_ratios, scores, smoothed
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import AT_CHECKPOINT
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.ablation import remaining
from avjax.diagnostics.protocol.inside import inside
from avjax.diagnostics.protocol.study import Found, Part, Said, Study
from avjax.streams import Stream
from avjax.training.optimizer import path_names

DRAWS = 8
"""Of labels and signs, for traces of Fisher's information."""


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
    rows = study.clips.complete
    if not len(rows):
        reason = "no clip has every modality"
        found.lines.append(skipped("contribution/imbalance_ratio", reason, estimator="probability of the true class"))
        return
    clips = study.clips.take(rows)
    own = inside(study.probe, clips).logits if isinstance(study.probe, ModelProbe) else {}
    ways = {"a forward pass of it alone": {m: study.said(remaining(study, clips, frozenset([m]), study.absence)).logits
                                           for m in study.modalities}}  # fmt: skip
    if len(own) == len(study.modalities):
        ways["its own logits"] = dict(own)
    for way, logits in ways.items():
        true = {m: true_probability(Said(z, clips.label)) for m, z in logits.items()}
        fill = {"fill": study.absence} if way.startswith("a forward") else {}
        for modality in study.modalities:
            found.lines.append(
                ratio_line(study, clips, true, modality, estimator=f"diagnosed clips, {way}", group=modality, **fill)
            )


def true_probability(said: Said) -> Float[np.ndarray, " N"]:
    """Of each clip's label."""
    return said.probability[np.arange(len(said.label)), said.label]


def ratio_line(
    study: Study, clips: Clips, true: Mapping[str, Float[np.ndarray, " N"]], modality: str, **fields: Any
) -> Measured:  # fmt: skip
    """log10 rho of a modality.

    Args:
      true: modality -> probability that it gives the true class, alone.
      fields: estimator and the like.
    """

    def ratio(chosen: Int[np.ndarray, " R"]) -> float:
        mean = {m: float(p[chosen].mean()) for m, p in true.items()}
        others = float(np.mean([value for m, value in mean.items() if m != modality]))
        if min(mean.values()) <= 0:
            raise Undefined("a modality gives the true class no probability at all: a ratio of it has no logarithm")
        return float(np.log10(mean[modality] / others))

    return study.line("contribution/imbalance_ratio", ratio, clips, target="label", **fields)


def _of_gradients(study: Study, found: Found) -> None:
    """Ratios of their norms, and of the traces of Fisher's information."""
    estimator = "diagnosed clips, parameters of that modality alone"
    drawn = f"{estimator}, {DRAWS} draws of labels and signs"
    part = study.part(study.tier.stressed)
    try:
        if study.tier.gradients == 0:
            raise Undefined(f"left out of the tier {study.tier.name}")
        own = OwnGradients.of(study.probe)
        ratios = {
            ("contribution/gradient_norm_ratio", estimator, "label"): gradient_norms(own, part),
            ("contribution/fisher_trace_ratio", drawn, "predicted"): fisher_traces(own, part, seed=study.seed),
        }
        logs = {name: log_ratios({m: np.array([x]) for m, x in sizes.items()}) for name, sizes in ratios.items()}
    except Undefined as undefined:
        found.lines += [
            skipped("contribution/gradient_norm_ratio", undefined.reason, estimator=estimator),
            skipped("contribution/fisher_trace_ratio", undefined.reason, estimator=drawn),
        ]
        return
    logs |= _of_checkpoints(study, own, part, estimator)
    for (id, words, target), ratio in logs.items():
        for modality, value in ratio.items():
            found.lines.append(
                number(id, lambda value=value: float(value[0]), estimator=words, target=target, n=len(part.rows),
                       group=modality)
            )  # fmt: skip


def _of_checkpoints(
    study: Study, own: OwnGradients, part: Part, estimator: str
) -> dict[tuple[str, str, str], Mapping[str, np.ndarray]]:
    """Ratios of gradients' norms while the model trained: at every checkpoint that is kept, by the same program."""
    found = {}
    for step, then in study.kept():
        try:
            norms = gradient_norms(dataclasses.replace(own, probe=then), part)
            ratio = log_ratios({m: np.array([x]) for m, x in norms.items()})
        except Undefined:
            # A gradient that is 0 has no ratio.
            continue
        found["contribution/gradient_norm_ratio", f"{estimator}{AT_CHECKPOINT}{step}", "label"] = ratio
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class OwnGradients:
    """Gradients of cross-entropies by the parameters theta_m that only modality m has.

    Whose a parameter is its path tells, as for the rules of training (``encoders.audio``); what is shared is in none.

    Attributes:
      probe: of the model.
      owners: modality of each leaf of its parameters, or None.
      gradient: of sum_i weight_i CE(y_i), at params, rest of the state, streams, labels and weights.
    """

    probe: ModelProbe
    owners: Sequence[str | None]
    gradient: Callable[..., Any]

    @classmethod
    def of(cls, probe: Any) -> OwnGradients:
        """Raises:
        Undefined: for a plain function, and where a modality has no parameters of its own.
        """
        if not isinstance(probe, ModelProbe):
            raise Undefined("a plain function has no parameters here")
        owners = [
            next((name for name in path_names(path) if name in probe.modalities), None)
            for path, _ in jax.tree_util.tree_leaves_with_path(_params(probe))
        ]
        if missing := [m for m in probe.modalities if m not in owners]:
            raise Undefined(f"no parameter of the model belongs to {missing[0]} alone")

        def loss(
            params: Any, rest: Any, streams: Mapping[str, Stream], label: jax.Array, weight: jax.Array
        ) -> jax.Array:
            whole = {"params": params, **({} if rest.average is None else {"average": params})}
            output = probe.steps.output(dataclasses.replace(rest, **whole), probe.features(streams))
            rows = optax.losses.softmax_cross_entropy_with_integer_labels(
                output.logits[probe.head].astype(jnp.float32), label
            )
            return (weight * rows).sum()

        return cls(probe, owners, compiled(jax.grad(loss)))

    def at(
        self, streams: Mapping[str, Stream], label: Int[np.ndarray, " B"], weight: Float[np.ndarray, " B"]
    ) -> list[Any]:
        """Leaf by leaf."""
        found = self.gradient(_params(self.probe), self.probe.state, streams, label, weight.astype(np.float32))
        return jax.tree.leaves(found)

    def squares(self, gradient: Sequence[Any]) -> dict[str, float]:
        """||g_m||^2 by modality."""
        found = dict.fromkeys(self.probe.modalities, 0.0)
        for owner, leaf in zip(self.owners, gradient, strict=True):
            if owner is not None:
                found[owner] += float((np.asarray(leaf, np.float64) ** 2).sum())
        return found


def _params(probe: ModelProbe) -> Any:
    return probe.state.params if probe.state.average is None else probe.state.average


def gradient_norms(own: OwnGradients, part: Part) -> dict[str, float]:
    """||dL/dtheta_m|| of L, the mean cross-entropy of the clips."""
    total = None
    for rows, full, streams in own.probe.batches(part.clips):
        weight = (np.arange(own.probe.batch) < len(rows)) / len(part.rows)
        found = own.at(streams, part.clips.label[full], weight)
        total = found if total is None else list(map(jnp.add, total, found))
    return {m: float(np.sqrt(square)) for m, square in own.squares(total).items()}


def fisher_traces(own: OwnGradients, part: Part, *, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """tr F_m = mean over the clips of E_y ||d log p(y|x) / dtheta_m||^2, y as likely as the model says it is.

    Without a gradient for each clip: of g_i, each with a label of its own, E ||sum_i s_i g_i||^2 = sum_i ||g_i||^2 over
    independent signs s_i = -1, 1 (Hutchinson's estimator). Unbiased; a mean over ``draws`` of labels and signs.
    """
    random, traces = np.random.default_rng(seed), dict.fromkeys(own.probe.modalities, 0.0)
    below = part.clean.probability.cumsum(axis=1)
    for rows, full, streams in own.probe.batches(part.clips):
        there = np.arange(own.probe.batch) < len(rows)
        for _ in range(draws):
            # The last class's sum may be below 1 by rounding.
            label = (random.random((len(full), 1)) > below[full, :-1]).sum(axis=1)
            signs = random.choice([-1.0, 1.0], len(full))
            for m, square in own.squares(own.at(streams, label, np.where(there, signs, 0.0))).items():
                traces[m] += square / draws / len(part.rows)
    return traces
