"""A model as diagnostics see it: logits of one head for raw clips, and what else it can be asked.

``FunctionProbe`` is what any model has, be it a function of another framework: logits. ``ModelProbe`` of a trained run
also hides tokens, differentiates, and reports its attention.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from avjax.diagnostics.clips import ClipReader, Clips
from avjax.diagnostics.coalitions import SetCoalitions, are_sets, model_of
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.flow import CLASS_TOKEN
from avjax.diagnostics.fills import Fill
from avjax.diagnostics.players import Baseline, Players, filled
from avjax.nn.encoders import Encoder
from avjax.nn.missing import MissingTokenModel
from avjax.nn.statistics import Site, dividing
from avjax.run import RunError
from avjax.streams import Batch, Stream
from avjax.training.step import Steps, TrainState
from avjax.training.trained import Trained
from kernels.attention import Layout

Streams = Mapping[str, Stream]
Kept = Mapping[str, Bool[Array, "B _"] | Bool[np.ndarray, "B _"]]
"""Modality -> which of its tokens [B, N] are there; a modality that is not named has all of them."""

FEW = 4
"""A small batch has so many times fewer rows (``backward_batch``)."""
COALITIONS = 32
"""Coalitions of one call: a compiled loop over so many masks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe(abc.ABC):
    """Any model.

    Attributes:
      modalities: names of the streams.
      head: what is predicted, a head of classes.
      classes: their names.
      batch: rows of one call.
    """

    modalities: tuple[str, ...]
    head: str
    classes: tuple[str, ...]
    batch: int

    @property
    def absence(self) -> Fill:
        """What it is called that a modality was never recorded."""
        return "drop"

    # Logits of at most ``batch`` clips.
    @abc.abstractmethod
    def call(self, clips: Clips) -> Num[np.ndarray, "B K"]: ...

    def logits(self, clips: Clips) -> Float[np.ndarray, "B K"]:
        """Of any number of clips."""
        parts = []
        for rows in self.parts(len(clips)):
            found = np.asarray(self.call(clips.take(rows)), np.float32)
            if found.shape != (len(rows), len(self.classes)):
                raise ValueError(f"the model gave logits {found.shape}; {(len(rows), len(self.classes))} were expected")
            parts.append(found)
        return np.concatenate(parts)

    def coalitions(
        self, clips: Clips, kept: Bool[np.ndarray, "S n"], players: Players, baseline: Baseline | None = None
    ) -> Float[np.ndarray, "S B K"]:
        """Logits of every clip with the players of each coalition.

        Args:
          kept: True where a player is present.
          baseline: what stands in for absent raw players.
        """
        if not players.raw:
            raise ValueError("the tokens of this model cannot be hidden: use raw players")
        return np.stack([self.logits(clips.replace(filled(clips.streams, row, players, baseline))) for row in kept])

    def varied(
        self, clips: Clips, kept: Bool[np.ndarray, "B n"], players: Players, baseline: Baseline | None = None
    ) -> Float[np.ndarray, "B K"]:
        """Logits of every clip with a coalition of its own; otherwise as ``coalitions``."""
        if not players.raw:
            raise ValueError("the tokens of this model cannot be hidden: use raw players")
        parts = []
        for rows in self.parts(len(clips)):
            some = clips.take(rows)
            parts.append(self.logits(some.replace(filled(some.streams, kept[rows], players, baseline))))
        return np.concatenate(parts)

    def parts(self, rows: int, size: int = 0) -> list[np.ndarray]:
        """Rows of each call, for so many in all; of ``size`` instead of the batch's where told."""
        size = size or self.batch
        return [np.arange(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def reader_of(trained: Trained, head: str, split: str, records: str | None = None) -> ClipReader:
    """Reads clips as the model of a run sees them; of other records where told."""
    data = trained.experiment.data
    return ClipReader(data if records is None else dataclasses.replace(data, records=records), split, head)


def _grid(encoder: Encoder) -> tuple[int, ...]:
    grid = tuple(getattr(encoder, "grid", (encoder.tokens,)))
    return grid if math.prod(grid) == encoder.tokens else (encoder.tokens,)


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionProbe(Probe):
    """A plain function of raw clips, of any framework (docs/diagnose.md).

    Attributes:
      function: clips, of which it may look at the streams alone, to logits [B, K].
    """

    function: Callable[[Clips], Num[np.ndarray, "B K"]]

    def call(self, clips: Clips) -> Num[np.ndarray, "B K"]:
        return self.function(clips)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelProbe(Probe):
    """A model of the contract.

    Attributes:
      steps: its functions.
      state: its parameters and buffers.
      sharding: of rows over devices.
      grids: token grid of each modality, time first.
    """

    steps: Steps
    state: TrainState
    sharding: NamedSharding
    grids: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, trained: Trained, head: str | None = None) -> ModelProbe:
        """Of a trained run, for a head of classes; the only one, unless told.

        Raises:
          RunError: where there is none, or several and none is named.
        """
        experiment = trained.experiment
        if experiment.objective.task != "classes":
            raise RunError(
                f"{trained.run.path} predicts {experiment.objective.task}; diagnose takes a model that tells classes"
                " (one a clip)"
            )
        known = getattr(experiment.model, "classes", trained.description.classes)
        heads = [name for name in trained.description.classes if name in known]
        if head is None and len(heads) != 1:
            raise RunError(f"{trained.run.path} has the heads {', '.join(heads)}: say which with --head")
        chosen = heads[0] if head is None else head
        if chosen not in heads:
            raise RunError(f"{trained.run.path} has no head {chosen!r}; it has {', '.join(heads)}")
        return cls(
            tuple(experiment.data.sampling), chosen, tuple(trained.description.classes[chosen]), experiment.data.batch,
            trained.steps, _evaluated(trained.state), trained.on_devices.sharding,
            {encoder.modality: _grid(encoder) for encoder in experiment.model.modalities},
        )  # fmt: skip

    @functools.cached_property
    def absence(self) -> Fill:
        """``learned`` of a model that has tokens for it."""
        with self.steps.parts(self.state) as (model, _):
            return "learned" if isinstance(model_of(model), MissingTokenModel) else "drop"

    def forward(self, streams: Streams, kept: Kept | None = None) -> Float[Array, "B K"]:
        """Logits of the head as a function that JAX can trace and differentiate in the streams' values.

        Front end, model and head; nothing is random.
        """
        return self._logits(self.state, streams, kept)

    @functools.cached_property
    def program(self) -> jax.tree_util.Partial:
        """``forward`` of all tokens with the parameters as arguments: no program holds them as constants."""
        return jax.tree_util.Partial(self._logits, self.state)

    @functools.cached_property
    def token_groups(self) -> dict[str, Layout]:
        """How groups of tokens are counted: one token more than a modality has, behind its own, is its class token."""
        sizes = {m: math.prod(grid) for m, grid in self.grids.items()}
        return {m: Layout((m, f"{CLASS_TOKEN}_{m}"), (size, 1)) for m, size in sizes.items()}

    def attention(self, clips: Clips, names: Sequence[str]) -> dict[str, Site]:
        """Statistics of every attention: site -> statistic -> [layer, B, H, N, ...], in NumPy. Of ``token_groups``.

        Raises:
          ValueError: where the model has no attention.
        """
        report = self.attending(tuple(names))
        parts = []
        for rows, _, streams in self.batches(clips):
            sites = report(self.state, streams)
            parts.append(jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:, :count], sites))
        return jax.tree.map(lambda *of: np.concatenate(of, axis=1), *parts)

    def backward_batch(self, rows: int) -> int:
        """Rows of a call that differentiates the model, for so many in all.

        It costs several forward passes: rows that would not fill a batch go in small ones.
        """
        few = max(self.batch // FEW, 1)
        small = few % self.sharding.mesh.size == 0 and rows <= self.batch - few
        return few if small else self.batch

    def saliency(
        self, clips: Clips, target: Int[np.ndarray, " B"], *, shift: float = 0.0
    ) -> tuple[dict[str, Float[np.ndarray, "B ..."]], Float[np.ndarray, "B K"]]:
        """|x df_c/dx| of the features behind the front end (gradient x input), and the logits, in one pass.

        Sound is a spectrogram there, [B, T, F]; of frames and features the channels are added up: [B, T, H, W], [B, T].

        Args:
          target: class c of each clip.
          shift: deviations of a clip's features by which x is moved, for a model that takes as much off again: what
            gradient x input is of x + m and f(x + m - m).
        """
        parts = []
        for rows, full, streams in self.batches(clips, self.backward_batch(len(clips))):
            wanted = jax.device_put(np.asarray(target)[full], self.sharding)
            found = self._salient(self.state, streams, wanted, np.float32(shift))
            parts.append(jax.tree.map(lambda x, count=len(rows): np.asarray(x)[:count], found))
        return jax.tree.map(lambda *of: np.concatenate(of), *parts)

    def logits(self, clips: Clips, kept: Kept | None = None) -> Float[np.ndarray, "B K"]:
        """Of any number of clips, in batches of one compiled size.

        Args:
          kept: modality -> [B, N], False hides a token from every layer.
        """
        if kept is None:
            return super().logits(clips)
        kept = {name: np.asarray(kept.get(name, np.ones((len(clips), math.prod(self.grids[name])), bool)))
                for name in self.grids}  # fmt: skip
        parts = []
        for rows, full, streams in self.batches(clips):
            hidden = jax.device_put({name: mask[full] for name, mask in kept.items()}, self.sharding)
            found = self._keeping(self.state, streams, hidden)
            parts.append(np.asarray(found)[: len(rows)])
        return np.concatenate(parts)

    def coalitions(
        self, clips: Clips, kept: Bool[np.ndarray, "S n"], players: Players, baseline: Baseline | None = None
    ) -> Float[np.ndarray, "S B K"]:
        whole, parts = _on_device(baseline), []
        if self._of_sets is not None:
            for rows, _, streams in self.batches(clips):
                found = self._of_sets.logits(self.state, streams, np.asarray(kept), players, whole)
                parts.append(found[:, : len(rows)])
            return np.concatenate(parts, axis=1)
        value, count = self._of_coalitions(players), len(kept)
        padded = np.concatenate([kept, np.ones((-count % COALITIONS, len(players)), bool)])
        for rows, _, streams in self.batches(clips):
            found = [
                np.asarray(value(self.state, streams, whole, padded[begin : begin + COALITIONS]))
                for begin in range(0, len(padded), COALITIONS)
            ]
            parts.append(np.concatenate(found)[:count, : len(rows)])
        return np.concatenate(parts, axis=1)

    def varied(
        self, clips: Clips, kept: Bool[np.ndarray, "B n"], players: Players, baseline: Baseline | None = None
    ) -> Float[np.ndarray, "B K"]:
        if not players.raw:
            return self.logits(clips, {modality: kept[:, where] for modality, where in players.where.items()})
        value, whole, parts = self._of_rows(players), _on_device(baseline), []
        for rows, full, streams in self.batches(clips):
            masks = jax.device_put(np.asarray(kept)[full], self.sharding)
            parts.append(np.asarray(value(self.state, streams, whole, masks))[: len(rows)])
        return np.concatenate(parts)

    def with_state(self, state: TrainState) -> ModelProbe:
        """The same model with other parameters; what was compiled for one serves the other."""
        other = dataclasses.replace(self, state=_evaluated(state))
        # Programs take the parameters as arguments.
        for name in ("_plain", "_salient", "_keeping", "_of_players", "_of_sets"):
            other.__dict__[name] = getattr(self, name)
        other.__dict__["program"] = jax.tree_util.Partial(self.program.func, other.state)
        return other

    def features(self, streams: Streams) -> Batch:
        """What the model is given of raw streams; may be traced."""
        streams = jax.tree.map(jnp.asarray, dict(streams))
        rows = next(iter(streams.values())).values.shape[0]
        batch = Batch(streams, {}, jnp.ones(rows, jnp.float32), jnp.zeros(rows, jnp.int32))
        return self.steps.frontend(batch, None)

    def _of_features(self, state: Any, features: Batch, kept: Kept | None) -> jax.Array:
        return self.steps.output(state, features, kept).logits[self.head].astype(jnp.float32)

    def _logits(self, state: Any, streams: Streams, kept: Kept | None = None) -> jax.Array:
        return self._of_features(state, self.features(streams), kept)

    def call(self, clips: Clips) -> Float[np.ndarray, "B K"]:
        _, _, streams = next(self.batches(clips))
        return np.asarray(self._plain(self.state, streams))[: len(clips)]

    def batches(self, clips: Clips, size: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, Streams]]:
        """Rows of each call, the same repeated up to the batch's size, and their streams on the devices.

        Of one size, so that one program serves all; what comes of the repeated rows is to be cut off.

        Args:
          size: another than the batch's.
        """
        for rows in self.parts(len(clips), size):
            full = np.resize(rows, size or self.batch)
            yield rows, full, jax.device_put(dict(clips.take(full).streams), self.sharding)

    @functools.cached_property
    def _whole(self) -> NamedSharding:
        return NamedSharding(self.sharding.mesh, PartitionSpec())

    @functools.cached_property
    def _plain(self) -> Callable[..., jax.Array]:
        return compiled(lambda state, streams: self._logits(state, streams), out_shardings=self._whole)

    @functools.cached_property
    def _salient(self) -> Callable[..., tuple[dict[str, jax.Array], jax.Array]]:
        def report(
            state: Any, streams: Streams, target: jax.Array, shift: jax.Array
        ) -> tuple[dict[str, jax.Array], jax.Array]:
            features = self.features(streams)

            def shifted(x: jax.Array) -> jax.Array:
                return x + shift * x.std(axis=range(1, x.ndim), keepdims=True)

            def score(values: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
                changed = {m: features.streams[m].replace(values=x) for m, x in values.items()}
                logits = self._of_features(state, features.replace(streams=changed), None)
                return jnp.take_along_axis(logits, target[:, None], axis=1).sum(), logits

            values = {m: stream.values for m, stream in features.streams.items()}
            slopes, logits = jax.grad(score, has_aux=True)(values)
            magnitude = {m: jnp.abs(shifted(values[m]) * slopes[m]) for m in values}
            # A spectrogram's last axis is frequency; of others it is the channels.
            heard = {m for m, stream in streams.items() if stream.values.ndim == 2}
            return {m: x if m in heard else x.sum(axis=-1) for m, x in magnitude.items()}, logits

        return compiled(report, out_shardings=self._whole)

    @functools.cached_property
    def _keeping(self) -> Callable[..., jax.Array]:
        return compiled(self._logits, out_shardings=self._whole)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a probe lives as long as its diagnosis
    def attending(self, names: tuple[str, ...]) -> Callable[..., dict[str, Site]]:
        """The program of ``attention``: (state, streams of ``batch`` rows) to sites of JAX's arrays."""

        def report(state: Any, streams: Streams) -> dict[str, Site]:
            with dividing(self.token_groups):
                return self.steps.output(state, self.features(streams), None, names).aux["attention"]

        return compiled(report, out_shardings=self._whole)

    @functools.cached_property
    def _of_sets(self) -> SetCoalitions | None:
        """The programs of coalitions where the model's tokens are sets."""
        if not are_sets(self.steps, self.state):
            return None
        return SetCoalitions(self.steps, self.head, self.features, self._whole)

    @functools.cached_property
    def _of_players(self) -> dict[tuple[Players, str], Callable[..., jax.Array]]:
        """Programs by the division that they were made for."""
        return {}

    def _of_coalitions(self, players: Players) -> Callable[..., jax.Array]:
        """(state, streams [B], baseline, kept [S, n]) to logits [S, B, K], one coalition after the other."""
        rows, known = self.batch, self._of_players

        def of_tokens(state: Any, streams: Streams, baseline: Baseline, kept: jax.Array) -> jax.Array:
            features = self.features(streams)

            def one(row: jax.Array) -> jax.Array:
                hidden = {m: jnp.broadcast_to(row[where], (rows, len(where))) for m, where in players.where.items()}
                return self._of_features(state, features, hidden)

            return jax.lax.map(one, kept)

        def of_raw(state: Any, streams: Streams, baseline: Baseline, kept: jax.Array) -> jax.Array:
            return jax.lax.map(lambda row: self._logits(state, filled(streams, row, players, baseline)), kept)

        if (players, "all") not in known:
            known[players, "all"] = compiled(of_raw if players.raw else of_tokens, out_shardings=self._whole)
        return known[players, "all"]

    def _of_rows(self, players: Players) -> Callable[..., jax.Array]:
        """(state, streams [B], baseline, kept [B, n]) to logits [B, K]: raw players, a coalition a row."""
        known = self._of_players

        def of_raw(state: Any, streams: Streams, baseline: Baseline, kept: jax.Array) -> jax.Array:
            return self._logits(state, filled(streams, kept, players, baseline))

        if (players, "each") not in known:
            known[players, "each"] = compiled(of_raw, out_shardings=self._whole)
        return known[players, "each"]


def _evaluated(state: TrainState) -> TrainState:
    """Without the optimizer's part, which is most of its arrays, and which every call of a program would go through."""
    return dataclasses.replace(state, optimizer=())


def _on_device(baseline: Baseline | None) -> dict[str, jax.Array]:
    return {} if baseline is None else {name: jnp.asarray(x, jnp.float32) for name, x in baseline.items()}
