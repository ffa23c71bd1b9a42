"""One training step and one evaluation step, as pure functions of a state and a batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avjax.data.frontend import Frontend
from avjax.nn.placement import Placement, placed_on
from avjax.nn.statistics import recording
from avjax.nn.transformer import Constant
from avjax.streams import Batch, Mean, Output
from avjax.training.rules import GradientRule, InputRule

Metrics = dict[str, jax.Array]
Means = dict[str, Mean]
# The features of a batch, and where an objective compares them those of a second view of it.
Views = tuple[Batch, ...]
# Before the names of what a gradient rule measures.
RULE = "rule/"
# An nnx.State or a tree of them; a tree map over the training state puts shapes or shardings in its place.
Tree = Any


@runtime_checkable
class Objective(Protocol):
    """What a step asks of an objective: the loss, its parts by name, and predictions from the model's output.

    The loss is a mean over rows by ``batch.weight``; a part says itself over which rows it is one. ``task`` names how
    predictions are scored, one of ``avjax.training.metrics.tasks.TASKS``. Predictions are what evaluation keeps, rows
    first: ``head`` or ``head/modality`` -> probabilities or values of clips or of steps, ``head/valid`` -> which steps
    count, [B, T]. An objective may have a field ``statistics``, names of what attention is to report:
    ``output.aux["attention"]`` holds them then.
    """

    @property
    def task(self) -> str: ...

    def __call__(self, output: Output, batch: Batch) -> tuple[jax.Array, Means]: ...

    def predictions(self, output: Output) -> dict[str, jax.Array]: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Arrays in the model's own nesting, without its variables: to take apart a thousand of those costs Python, at every
    step, as much as a small model's step.

    Attributes:
      step: number of steps taken; also the position in the data.
      params: float32 master weights.
      buffers: what layers keep beside parameters (batch statistics).
      optimizer: state of the optax chain.
      average: exponential moving average of the parameters, or None.
    """

    step: Tree
    params: Tree
    buffers: Tree
    optimizer: Tree
    average: Tree


@dataclasses.dataclass(frozen=True)
class Steps:
    """A model, objective and optimizer made into pure functions.

    Attributes:
      graph: structure of the model.
      constants: its random streams, reseeded at every step, and numbers that never change.
      precision: of the forward and backward pass; master weights, loss and optimizer are float32.
      accumulate: microbatches a step; their weighted mean gradient is the batch's.
      remat: what the backward pass computes again of each layer instead of keeping it: nothing, everything, or
        all but the products with weights.
      scan: layers that are alike run as one program over their stacked weights.
      average: decay of the moving average of the parameters; 0 for none.
      second_view: how the same clips are seen a second time, for objectives that compare; None where none does.
      rule: what is done to gradients before the optimizer sees them; None for nothing.
      inputs: what is done to the raw batch before the front end sees it; None for nothing. A second view stays one of
        the clips as they are.
      skip_non_finite: a step whose loss or gradient is no number leaves everything but the step's number as it was.
      placement: the mesh that the step is for, and how activations lie on it; None for one device.
    """

    graph: nnx.GraphDef
    constants: nnx.State
    frontend: Frontend
    objective: Objective
    optimizer: optax.GradientTransformation
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    remat: Literal["none", "full", "dots"] = "none"
    scan: bool = False
    average: float = 0.0
    second_view: Frontend | None = None
    rule: GradientRule | None = None
    inputs: InputRule | None = None
    skip_non_finite: bool = False
    placement: Placement | None = None

    @property
    def statistics(self) -> tuple[str, ...]:
        """Of attention, that the objective asks for; it finds them in ``output.aux["attention"]``."""
        return getattr(self.objective, "statistics", ())

    def create(self, params: nnx.State, buffers: nnx.State) -> TrainState:
        """The state before the first step: of arrays, or of variables where their logical axes are asked for."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            buffers=buffers,
            optimizer=self.optimizer.init(params),
            average=jax.tree.map(jnp.copy, params) if self.average else None,
        )

    def train(self, state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        """One step.

        Every random draw follows from (seed, step) and the row: in augmentation from its record, in dropout from its
        place in the global batch, which is the same for any number of processes and devices.
        """
        augment_key, model_key = jax.random.split(jax.random.fold_in(seed, state.step))
        views: Views = (self.frontend(self._changed(state, batch, augment_key), augment_key),)
        if self.second_view is not None and getattr(self.objective, "needs_second_view", True):
            views = (*views, self.second_view(batch, jax.random.fold_in(augment_key, 1)))
        gradients, means, buffers = self._gradients(state, views, model_key)
        if self.rule is not None:
            signals = {name.removeprefix(RULE): mean.value for name, mean in means.items() if name.startswith(RULE)}
            gradients = self.rule(gradients, signals, state.step, jax.random.fold_in(augment_key, 2))
        updates, optimizer = self.optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            # The usual warm-up of the decay: without it the average remembers the initial weights for long.
            decay = jnp.minimum(self.average, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        metrics = {name: mean.value for name, mean in means.items()} | {"gradient_norm": optax.tree.norm(gradients)}
        after = TrainState(state.step + 1, params, buffers, optimizer, average)
        if self.skip_non_finite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            kept = dataclasses.replace(state, step=after.step)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, kept)
        return after, metrics

    def evaluate(self, state: TrainState, batch: Batch) -> tuple[dict[str, jax.Array], Means]:
        """The objective's predictions, and the parts of the loss; no augmentation, no dropout.

        A second view, where there is one, is drawn with a key of its own, by clip, the same every time.
        """
        params = state.params if state.average is None else state.average
        features = self.frontend(batch, None)
        views = (features,) if self.second_view is None else (features, self.second_view(batch, jax.random.key(0)))
        output, _ = self._outputs(params, state.buffers, views, None)
        loss, parts = self.objective(output, features)
        return self.objective.predictions(output), self._means(loss, parts, features)

    def output(
        self,
        state: TrainState,
        features: Batch,
        keep: Mapping[str, jax.Array] | None = None,
        statistics: Sequence[str] = (),
    ) -> Output:
        """The model's output as in ``evaluate``, for whoever wants to look into it.

        Args:
          features: of the front end, without augmentation.
          keep: modality -> [B, N], False hides a token.
          statistics: of attention, which ``output.aux["attention"]`` then holds.
        """
        params = state.params if state.average is None else state.average
        return self._forward(params, state.buffers, features, None, keep, statistics or self.statistics)[0]

    @contextlib.contextmanager
    def parts(self, state: TrainState) -> Iterator[tuple[nnx.Module, Callable[[Batch], Batch]]]:
        """The model as it is evaluated, and what makes features of the precision that it wants: for whoever calls not
        the whole of it."""
        params = state.params if state.average is None else state.average
        with placed_on(self.placement):
            yield self._model(params, state.buffers, None), self._cast_values

    def _changed(self, state: TrainState, batch: Batch, key: jax.Array) -> Batch:
        """The raw batch as ``inputs`` wants it, in as many parts as there are microbatches: memory is theirs."""
        if self.inputs is None:
            return batch
        if self.frontend.augment is not None and self.frontend.augment.mixup is not None:
            raise ValueError(
                "a rule for inputs looks at each row by itself, and mixup blends rows: leave one of them out"
            )

        def logits(raw: Batch) -> dict[str, jax.Array]:
            features = self.frontend(raw, key)
            return self._forward(state.params, state.buffers, features, None, statistics=())[0].logits

        def change(part: Batch) -> Batch:
            return self.inputs(logits, part, jax.random.fold_in(key, 3))

        if self.accumulate == 1:
            return change(batch)
        changed = jax.lax.map(change, self._microbatches(batch))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), changed)

    def _microbatches(self, batch: Tree) -> Tree:
        """Rows [B, ...] to [A, B / A, ...]: row i goes to microbatch i modulo their number, so that every device keeps
        its own rows."""
        rows = jax.tree.leaves(batch)[0].shape[0]
        if rows % self.accumulate:
            raise ValueError(
                f"a batch of {rows} rows cannot be divided into {self.accumulate} microbatches; set --data.batch to a"
                " multiple of --training.accumulate"
            )
        return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, self.accumulate, *x.shape[1:]), 1, 0), batch)

    def _gradients(self, state: TrainState, views: Views, key: jax.Array) -> tuple[nnx.State, Means, nnx.State]:
        """Gradient and metrics of the batch, over microbatches where there are several."""
        gradient = jax.grad(self._loss, has_aux=True)
        if self.accumulate == 1:
            gradients, (means, buffers) = gradient(state.params, state.buffers, views, key)
            return gradients, means, buffers

        def add(carry: tuple, part: tuple[Views, jax.Array]) -> tuple[tuple, None]:
            sums, means, buffers = carry
            micro, number = part
            gradients, (more, buffers) = gradient(state.params, buffers, micro, jax.random.fold_in(key, number))
            return (
                optax.tree.add_scale(sums, micro[0].weight.sum(), gradients),
                optax.tree.add(means, more),
                buffers,
            ), None

        micros = self._microbatches(views)
        first = jax.tree.map(lambda x: x[0], micros)
        _, (means, _) = jax.eval_shape(gradient, state.params, state.buffers, first, key)
        start = (*optax.tree.zeros_like((state.params, means)), state.buffers)
        (sums, means, buffers), _ = jax.lax.scan(add, start, (micros, jnp.arange(self.accumulate)))
        gradients = optax.tree.scale(1 / jnp.maximum(views[0].weight.sum(), 1e-8), sums)
        return gradients, means, buffers

    def _loss(
        self, params: nnx.State, buffers: nnx.State, views: Views, key: jax.Array
    ) -> tuple[jax.Array, tuple[Means, nnx.State]]:
        output, buffers_after = self._outputs(params, buffers, views, key)
        loss, parts = self.objective(output, views[0])
        if self.rule is not None:
            signals = self.rule.signals(output, views[0])
            parts = {**parts, **{f"{RULE}{name}": mean for name, mean in signals.items()}}
        return loss, (self._means(loss, parts, views[0]), buffers_after)

    def _means(self, loss: jax.Array, parts: Means, features: Batch) -> Means:
        weight = jnp.asarray(features.weight).sum()
        return {"loss": Mean(loss * weight, weight), **parts}

    def _outputs(
        self, params: nnx.State, buffers: nnx.State, views: Views, key: jax.Array | None
    ) -> tuple[Output, nnx.State]:
        """The output for the first view; with the second's in ``aux["second_view"]`` where there is one."""
        output, buffers_after = self._forward(params, buffers, views[0], key)
        if len(views) == 2:
            # With the same draws of dropout, so that what differs comes from what was seen.
            second, _ = self._forward(params, buffers, views[1], key)
            output = dataclasses.replace(output, aux={**output.aux, "second_view": second})
        return output, buffers_after

    def _forward(
        self,
        params: nnx.State,
        buffers: nnx.State,
        features: Batch,
        key: jax.Array | None,
        keep: Mapping[str, jax.Array] | None = None,
        statistics: Sequence[str] | None = None,
    ) -> tuple[Output, nnx.State]:
        """The model in ``precision``; without a key nothing is random."""
        model, features = self._model(params, buffers, key), self._cast_values(features)
        statistics = self.statistics if statistics is None else statistics
        # A recording of nothing would keep from whoever calls what they ask for.
        asked = recording(statistics) if statistics else contextlib.nullcontext({})
        with placed_on(self.placement), asked as sites:
            output = model(features) if keep is None else model(features, keep)
        if statistics:
            output = dataclasses.replace(output, aux={**output.aux, "attention": sites})
        _, _, buffers_after, _ = split_model(model)
        return output, jax.tree.map(lambda new, old: new.astype(old.dtype), nnx.as_pure(buffers_after), buffers)

    def _model(self, params: nnx.State, buffers: nnx.State, key: jax.Array | None) -> nnx.Module:
        # Buffers stay float32: a moving average of slow steps stands still in bfloat16.
        model = nnx.merge(self.graph, self._cast(params), buffers, self.constants, copy=True)
        if key is not None:
            nnx.reseed(model, default=key, dropout=key)
        modes = {"deterministic": key is None, "use_running_average": key is None}
        model = nnx.view(model, raise_if_not_found=False, **modes)
        if self.remat != "none" and key is not None:
            # Raises where no layer of the model can do it: it would be left out in silence.
            model = nnx.view(model, remat=self.remat)
        return nnx.view(model, scan=True) if self.scan else model

    def _cast_values(self, features: Batch) -> Batch:
        """Values alone: bfloat16 would round seconds."""
        streams = {name: s.replace(values=self._cast(s.values)) for name, s in features.streams.items()}
        return features.replace(streams=streams)

    def _cast(self, tree: Any) -> Any:
        def cast(x: jax.Array) -> jax.Array:
            return x.astype(self.precision) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(cast, tree)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """Structure, parameters, buffers and constants (random streams among them) of a model."""
    return nnx.split(model, nnx.Param, nnx.Not(nnx.Any(nnx.RngState, Constant)), ...)
