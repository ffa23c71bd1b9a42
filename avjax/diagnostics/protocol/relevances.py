"""Relevance that is carried through a model's attention (rollout, Chefer's rule), for all stages of a study."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.relevance import Flow, Traced, chefer_joint, rollout
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Study
from avjax.streams import Stream

RELEVANCES = {"chefer_share": chefer_joint, "rollout_share": rollout}
ByTokens = Mapping[str, Float[np.ndarray, "B _"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Carried:
    """The program of one model.

    Attributes:
      report: of ``batch`` rows, streams and one-hot classes to relevance of tokens, by its name.
    """

    probe: ModelProbe
    report: Callable[..., dict[str, dict[str, jax.Array]]]

    def __call__(self, clips: Clips, target: Int[np.ndarray, " N"]) -> dict[str, ByTokens]:
        """Name of the relevance -> group of tokens -> [N, tokens], of class ``target`` of each clip."""
        wanted, parts = jax.nn.one_hot(target, len(self.probe.classes)), []
        for rows in self.probe.parts(len(clips)):
            full = np.resize(rows, self.probe.batch)
            got = self.report(dict(clips.take(full).streams), wanted[full])
            parts.append(jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:count], got))
        return jax.tree.map(lambda *of: np.concatenate(of), *parts)

    def rollout(self, clips: Clips, target: Int[np.ndarray, " N"]) -> dict[str, Float[np.ndarray, "N ..."]]:
        """Attention rollout of each modality's own tokens, on their grid; Undefined where attention does not name them.

        Class tokens and bottlenecks are no modality's, and left out.
        """
        found, maps = self(clips, target)["rollout_share"], {}
        for modality in self.probe.modalities:
            if modality not in found:
                raise Undefined(f"no attention names tokens of {modality}; it names {', '.join(sorted(found))}")
            shape = self.probe.grids[modality]
            maps[modality] = np.asarray(found[modality])[:, : int(np.prod(shape))].reshape(-1, *shape)
        return maps


def carried(study: Study) -> Carried:
    """Of a study's model; found out and compiled once for all stages. Undefined where relevance cannot be carried."""
    found = _carried(study)
    if isinstance(found, str):
        raise Undefined(found)
    return found


@functools.lru_cache(maxsize=1)
def _carried(study: Study) -> Carried | str:
    """The reason where there is none: to find out takes as long as to find the flow."""
    probe, clips = study.probe, study.clips
    if not isinstance(probe, ModelProbe):
        return "a plain function does not tell its attention"

    def score(streams: dict[str, Stream], wanted: jax.Array) -> jax.Array:
        return (probe.forward(streams) * wanted).sum(axis=1)

    if not len(clips.complete):
        return "no clip has every modality"
    one = np.resize(clips.complete[:1], probe.batch)
    wanted = jax.nn.one_hot(clips.label[one], len(probe.classes))
    try:
        flow = Flow.of(score, jax.tree.map(jnp.asarray, dict(clips.take(one).streams)), wanted)
    except Undefined as undefined:
        return undefined.reason

    @compiled
    def report(streams: dict[str, Stream], wanted: jax.Array) -> dict[str, dict[str, jax.Array]]:
        traced = Traced.of(flow, score, streams, wanted)
        return {name: of(traced) for name, of in RELEVANCES.items()}

    return Carried(probe, report)
