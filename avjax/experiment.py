"""Experiment: what an experiment file returns. Generic over model, objective, optimizer, rules; imports none of them.

An experiment file is Python. Its function ``experiment()`` builds one ``Experiment`` from plain objects, and the
command line changes any of its fields: ``avjax train experiments/demo_mbt.py --optimizer.learning-rate 1e-3``. A file
may instead have a function ``comparison()`` that returns a ``Comparison`` of several; ``FILE:NAME`` is one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import jax
import optax
import tyro
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from avjax.data.frontend import Frontend
from avjax.data.pipeline import Data
from avjax.nn.placement import Placement
from avjax.training.rules import GradientRule, InputRule
from avjax.training.sharding import MeshShape, Rules
from avjax.training.step import Objective, Steps, split_model


@runtime_checkable
class ModelConfig(Protocol):
    """Beside every model stands a dataclass that builds it."""

    @property
    def build(self) -> Callable[[nnx.Rngs], nnx.Module]: ...


@runtime_checkable
class OptimizerConfig(Protocol):
    """Beside every optimizer stands a dataclass that builds it for a number of steps."""

    @property
    def build(self) -> Callable[[nnx.State, int], optax.GradientTransformation]: ...

    @property
    def schedule(self) -> Any: ...


M = TypeVar("M", bound=ModelConfig)
L = TypeVar("L", bound=Objective)
O = TypeVar("O", bound=OptimizerConfig)  # noqa: E741
R = TypeVar("R", bound=GradientRule | None)
I = TypeVar("I", bound=InputRule | None)  # noqa: E741
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and how to train.

    Attributes:
      steps: optimizer steps in all.
      evaluate_every: steps between two looks at the validation split; 0 looks at the end only.
      checkpoint_every: steps between two checkpoints; the last step is always kept.
      keep_last: number of newest checkpoints that stay.
      best_by: number of the validation split by which one more checkpoint stays, the best: primary, the metric that
        comes first in the task (avjax/training/metrics/tasks.py), of the first head; loss; or HEAD/METRIC, such as
        emotion/uar.
      non_finite: what to do when a loss or gradient is no number: stop; skip the step; or rewind to the last
        checkpoint and go on behind the bad step, without the clips between.
      stall_limit: seconds to wait for a batch before the state is saved and training ends; warnings come from a tenth
        of it on. 0 waits for ever, without a word.
      log_every: steps that one line of metrics sums up.
      precision: of forward and backward pass; master weights are float32 either way.
      accumulate: microbatches a step.
      remat: what the backward pass computes again of each layer instead of keeping it.
      scan: compiles layers that are alike once, and runs them over their stacked weights.
      average: decay of the moving average of the parameters, which is then what is evaluated; 0 for none.
      mesh: devices along each axis.
      rules: which logical axis of a parameter lies on which axis of the mesh.
    """

    steps: int
    evaluate_every: int = 0
    checkpoint_every: int = 500
    keep_last: int = 2
    best_by: str = "primary"
    non_finite: Literal["stop", "skip", "rewind"] = "stop"
    stall_limit: float = 600.0
    log_every: int = 20
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    remat: Literal["none", "full", "dots"] = "none"
    scan: bool = False
    average: float = 0.0
    mesh: MeshShape = MeshShape()
    rules: Rules = Rules()


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[M, L, O, R, I]):
    """Everything that defines a run.

    Attributes:
      model: configuration of the model, with ``build(rngs)``.
      data: what is read, and how it is sampled.
      frontend: from samples and frames to features, on device.
      objective: from the model's output to the loss.
      optimizer: configuration of the optimizer.
      training: how long and how.
      second_view: how training sees the same clips a second time, for objectives that compare two views; None where
        none does.
      rule: what is done to gradients before the optimizer sees them (avjax.training.rules); None for nothing.
      inputs: what is done to raw clips before the front end sees them, such as adversarial training
        (avjax.diagnostics.stress.attacks.training); None for nothing.
      seed: of parameters, order, crops, augmentation and dropout.
    """

    model: M
    data: Data
    frontend: Frontend
    objective: L
    optimizer: O
    training: Training
    second_view: Frontend | None = None
    rule: R = None
    inputs: I = None
    seed: int = 0

    def build_model(self) -> nnx.Module:
        return self.model.build(nnx.Rngs(self.seed))

    def steps(self, mesh: Mesh | AbstractMesh | None = None) -> tuple[Steps, nnx.State, nnx.State]:
        """The model as pure step functions for a mesh, and its abstract parameters and buffers; nothing is allocated.

        Args:
          mesh: of devices, or an abstract one to compile for; None for one device.
        """
        training = self.training
        if getattr(self.objective, "needs_second_view", False) and self.second_view is None:
            raise ValueError(
                "the objective compares two views of a clip: give the experiment a second_view, a Frontend that shows"
                " it in another way"
            )
        graph, params, buffers, constants = split_model(nnx.eval_shape(self.build_model))
        del constants  # Abstract; the real ones are a few hundred bytes.
        return (
            Steps(
                graph=graph,
                # Reseeded at every step: the same in every run, so that runs of other seeds share compiled programs.
                constants=_constants(lambda: self.model.build(nnx.Rngs(0))),
                frontend=self.frontend,
                objective=self.objective,
                optimizer=self.optimizer.build(params, training.steps),
                precision=training.precision,
                accumulate=training.accumulate,
                remat=training.remat,
                scan=training.scan,
                average=training.average,
                second_view=self.second_view,
                rule=self.rule,
                inputs=self.inputs,
                skip_non_finite=training.non_finite == "skip",
                placement=None if mesh is None else Placement(mesh, training.rules),
            ),
            params,
            buffers,
        )


def _constants(build: Callable[[], nnx.Module]) -> nnx.State:
    """Random streams and other constants of a model, without its parameters: jit drops what is not returned."""
    return jax.jit(lambda: split_model(build())[3])()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Experiments to be trained and shown side by side: what ``avjax compare FILE`` takes.

    Attributes:
      experiments: name -> experiment; the names become folders. One budget is theirs to keep: what they do not share
        besides the model is told in the table.
      seeds: every experiment is trained with each.
    """

    experiments: Mapping[str, Experiment]
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in self.experiments:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ExperimentError(f"{name!r} cannot be the name of an experiment: it has to serve as a folder's")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an experiment came from: its file, the files beside it that it imports, and the words of the command.

    An experiment is rebuilt by running the file and replaying the words, never by unpickling. ``member`` is its name in
    the file's comparison; "" where the file has an experiment of its own.
    """

    file: Path
    siblings: tuple[Path, ...]
    words: tuple[str, ...]
    member: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.file.stem, self.member)))

    @property
    def reference(self) -> str:
        """The file's name, with the member's: what ``load`` takes, beside the folder."""
        return ":".join(filter(None, (self.file.name, self.member)))


class ExperimentError(Exception):
    """An experiment that cannot be found or built; says what to do."""


def find(name: str) -> Path:
    """The file of an experiment: a path, or a name in the folder ``experiments``.

    Raises:
      ExperimentError: if there is none; names what there is.
    """
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    for folder in _folders():
        if path.parent == Path(".") and (folder / f"{path.stem}.py").is_file():
            return folder / f"{path.stem}.py"
    near = difflib.get_close_matches(path.stem, known(), n=1)
    raise ExperimentError(
        f"there is no experiment {name!r}: neither such a file nor such a name in experiments/"
        + (f"; did you mean {near[0]!r}?" if near else f", which holds {', '.join(known()) or 'none'}")
    )


def known() -> list[str]:
    """Names of the experiments in the folder ``experiments``, here and beside the package."""
    files = [file for folder in _folders() for file in folder.glob("*.py")]
    return sorted({file.stem for file in files if "def experiment(" in file.read_text()})


def _folders() -> list[Path]:
    return [Path("experiments"), Path(__file__).parents[1] / "experiments"]


def load(name: str | Path, words: tuple[str, ...] = ()) -> tuple[Experiment, Source]:
    """Builds the experiment of a file, changed by the words of a command line.

    Args:
      name: of the file; with ``:NAME`` behind it the experiment of that name in the file's comparison.

    Raises:
      ExperimentError: if the file has no such experiment.
    """
    name, member = _parts(str(name))
    file = find(name)
    with _importable(file.parent) as siblings:
        namespace = runpy.run_path(str(file))
        if member:
            members = _made(namespace, file, "comparison", Comparison).experiments
            if member not in members:
                raise ExperimentError(f"the comparison of {file} has no {member!r}; it has {', '.join(members)}")
            experiment = members[member]
        elif "experiment" not in namespace and "comparison" in namespace:
            raise ExperimentError(f"{file} compares experiments; name one of them: {file}:NAME")
        else:
            experiment = _made(namespace, file, "experiment", Experiment)
        return override(experiment, words, file.stem), Source(file, siblings(), words, member)


def load_comparison(name: str | Path) -> Comparison | None:
    """The comparison of a file; None where the file has none."""
    name, member = _parts(str(name))
    file = find(name)
    with _importable(file.parent):
        namespace = runpy.run_path(str(file))
        if member or "comparison" not in namespace:
            return None
        return _made(namespace, file, "comparison", Comparison)


def _made(namespace: Mapping[str, Any], file: Path, function: str, kind: type[T]) -> T:
    """What the file's function returns."""
    make = namespace.get(function)
    if not callable(make):
        raise ExperimentError(f"{file} has no function {function}(); it must return an avjax {kind.__name__}")
    made = make()
    if not isinstance(made, kind):
        raise ExperimentError(f"{function}() of {file} returned {type(made).__name__}, which is no {kind.__name__}")
    return made


def _parts(name: str) -> tuple[str, str]:
    """FILE:MEMBER in two; no member where there is none."""
    file, colon, member = name.rpartition(":")
    return (file, member) if colon and "/" not in member else (name, "")


def override(experiment: Experiment, words: tuple[str, ...], name: str) -> Experiment:
    """The experiment with fields changed by command-line words; prints help or the nearest key and exits."""
    if not words:
        return experiment
    flags = tyro.conf.AvoidSubcommands[concrete_type(experiment)]
    return tyro.cli(flags, prog=f"avjax train {name}", args=list(words), default=experiment)


def concrete_type(experiment: Experiment) -> Any:
    """The type from which flags are made: Experiment of this very model, objective, optimizer and rules."""
    parts = (experiment.model, experiment.objective, experiment.optimizer, experiment.rule, experiment.inputs)
    return Experiment[tuple(_type(part) for part in parts)]


def _type(part: Any) -> Any:
    """The type of a part; with that of the other part that its first field holds, as with a model with prototypes."""
    if not getattr(type(part), "__parameters__", ()):
        return type(part)
    return type(part)[type(getattr(part, dataclasses.fields(part)[0].name))]


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[Callable[[], tuple[Path, ...]]]:
    """Lets an experiment import the files beside it; yields a function that lists those it has imported.

    They are forgotten afterwards, so that the copies in two run directories do not mix.
    """
    before = set(sys.modules)
    place = str(folder.resolve())
    sys.path.insert(0, place)

    def imported() -> dict[str, Path]:
        found = {}
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().parent == Path(place):
                found[name] = Path(file)
        return found

    try:
        yield lambda: tuple(sorted(imported().values()))
    finally:
        sys.path.remove(place)
        for name in imported():
            del sys.modules[name]
