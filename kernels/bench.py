"""Measures implementations of attention against one another: time, rate, memory.

Contestants take turns within one run, so that all meet the same machine; figures are medians of wall and CPU time with
their spread. Peak memory is what the compiler plans for a program beside its arguments, and of a peer in another
process what that process grew by.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from kernels.aot.jobs import Job, function
from kernels.attention import attention
from kernels.attention.mask import pairs
from kernels.attention.specs import Spec

Direction = Literal["forward", "both"]
# Seconds before every run, see ``compete``.
PAUSE = 0.03
PEERS = Path(__file__).with_name("peers")


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
      spec: shapes and mask.
      batch: samples.
      dtype: float32 or bfloat16.
      direction: the forward pass, or forward and backward.
      statistics: reported beside the output; of our own implementations alone.
    """

    spec: Spec
    batch: int
    dtype: str = "float32"
    direction: Direction = "forward"
    statistics: tuple[str, ...] = ()

    @property
    def operations(self) -> float:
        """Floating-point operations of the products that the mask leaves: 2 products forward, 5 more backward."""
        spec, mask = self.spec, self.spec.mask()
        scores = sum(pair.scores for pair in pairs(mask))
        width = (spec.width + (spec.value_width or spec.width)) / 2
        return 2.0 * self.batch * spec.heads * scores * width * (2 if self.direction == "forward" else 7)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one contestant.

    Attributes:
      name: of the contestant.
      wall, cpu: seconds of every round.
      memory: bytes at the peak, beside the arguments; None where it is not known.
    """

    name: str
    wall: list[float]
    cpu: list[float]
    memory: int | None

    def plain(self, case: Case | None = None, first: Measured | None = None) -> dict[str, Any]:
        """As JSON takes it: with its rate where the case is given, and ratios to the first contestant."""
        result: dict[str, Any] = {"name": self.name}
        for kind, seconds in (("wall", self.wall), ("cpu", self.cpu)):
            low, middle, high = np.percentile(seconds, [25, 50, 75])
            result[kind] = {"median": float(middle), "low": float(low), "high": float(high)}
            if first is not None:
                # Round by round: neighbours in time are compared.
                result[kind]["ratio"] = float(np.median(np.array(seconds) / np.array(getattr(first, kind))))
        if case is not None:
            result["gflops"] = case.operations / result["wall"]["median"] / 1e9
        result["memory"] = self.memory
        return result


@runtime_checkable
class Contestant(Protocol):
    """Something that can run a case again and again."""

    name: str
    memory: int | None

    # Once; wall and CPU seconds.
    def run(self) -> tuple[float, float]: ...


class Compiled:
    """A JAX function, compiled for a case.

    Args:
      name: of the contestant.
      function: (query, key, value) -> a tree whose first leaf is the output.
      case: its shapes and direction; the backward pass is of the output, with itself for cotangent.
    """

    def __init__(self, name: str, function: Callable[..., Any], case: Case):
        self.name = name
        self._arrays = tuple(case.spec.arrays(case.batch, jnp.dtype(case.dtype)).values())

        def both(query: jax.Array, key: jax.Array, value: jax.Array) -> Any:
            output, pull, rest = jax.vjp(lambda *qkv: _split(function(*qkv)), query, key, value, has_aux=True)
            return output, rest, pull(output)

        self._compiled = jax.jit(function if case.direction == "forward" else both).lower(*self._arrays).compile()
        analysis = self._compiled.memory_analysis()
        self.memory = None if analysis is None else analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        self.run()

    def run(self) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(self._compiled(*self._arrays))
        return time.perf_counter() - wall, time.process_time() - cpu


def _split(result: Any) -> tuple[jax.Array, Any]:
    output, *rest = result if isinstance(result, tuple) else (result,)
    return output, rest


class Program:
    """A contestant in a process of its own, asked line by line (peers/line.py).

    Args:
      name: of the contestant.
      command: the program and what it is told.
      whole: its memory is all of the process at the peak of its runs, in place of what a run adds.
      variables: of its environment, beside our own.

    Raises:
      RuntimeError: with its last words, if it does not start.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, whole: bool = False, variables: Mapping[str, str] | None = None
    ):
        self.name, self._whole = name, whole
        path = os.pathsep.join(filter(None, [str(PEERS), os.environ.get("PYTHONPATH")]))
        # A file, not a pipe: nobody reads what a program says there until it has died.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **(variables or {}), "PYTHONPATH": path},
        )  # fmt: skip
        self.ready = self._answer()
        self.memory = None if whole else self.ready["grown"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = self._errors.read().strip()[-400:]
            self.close()
            raise RuntimeError(f"{self.name} ended: {words}")
        return json.loads(line)

    def run(self) -> tuple[float, float]:
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        answer = self._answer()
        if self._whole:
            self.memory = answer["peak"]
        return answer["wall"], answer["cpu"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def torch_attention(python: str, kind: str, case: Case) -> Program:
    """PyTorch's attention: ``kind`` is sdpa or compile, ``python`` one that has torch."""
    asked = {
        "kind": kind,
        "shapes": case.spec.shapes(case.batch),
        "dtype": case.dtype,
        "direction": case.direction,
        "pairs": [[pair.queries, pair.keys] for pair in pairs(case.spec.mask())],
        "causal": case.spec.causal,
    }
    return Program(f"torch {kind}", [python, str(PEERS / "torch_attention.py"), json.dumps(asked)])


def own(name: str, case: Case, label: str = "") -> Compiled:
    """One of our implementations, with the statistics of the case."""
    mask = case.spec.mask()

    def function(query: jax.Array, key: jax.Array, value: jax.Array) -> Any:
        attended = attention(query, key, value, mask=mask, statistics=case.statistics, implementation=name)
        return attended.output, attended.statistics

    return Compiled(label or name, function, case)


def jax_nn(case: Case) -> Compiled:
    """jax.nn.dot_product_attention, with a dense mask where the case hides pairs, multiplying as precisely as ours."""
    seen = None if _sees_all(case.spec) else jnp.asarray(case.spec.seen())[None, None]

    def function(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(_precision(case)):
            return jax.nn.dot_product_attention(query, key, value, mask=seen)

    return Compiled("jax.nn", function, case)


def einsum(case: Case) -> Compiled:
    """What one writes by hand: einsum, softmax, einsum, heads before tokens, an additive mask."""
    hidden = None if _sees_all(case.spec) else jnp.where(jnp.asarray(case.spec.seen()), 0.0, -1e30)

    def function(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        key, value = (jnp.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
        precision = _precision(case)
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, precision=precision, preferred_element_type=jnp.float32)
        scores = scores / math.sqrt(query.shape[-1])
        scores = scores if hidden is None else scores + hidden
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, value, precision=precision), 1, 2)

    return Compiled("einsum", function, case)


def splash(case: Case) -> Compiled:
    """Splash attention, in blocks of 512, where the case is one that it can do.

    Raises:
      ValueError: where it is not.
    """
    job = Job("here", case.spec.name, "splash", case.batch, case.dtype, sizes=(512,) * 4)
    return Compiled("splash", function(job), case)


def tokamax(case: Case, implementation: str) -> Compiled:
    """tokamax's XLA paths, where it is installed.

    Raises:
      ImportError: where it is not.
    """
    import tokamax as library

    seen = None if _sees_all(case.spec) else jnp.asarray(case.spec.seen())[None, None]

    def function(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return library.dot_product_attention(query, key, value, mask=seen, implementation=implementation)

    return Compiled(f"tokamax {implementation}", function, case)


def field(
    case: Case, statistics: tuple[str, ...] = (), torch_python: str | None = None
) -> dict[str, Callable[[], Contestant]]:
    """Who takes part in a case: name -> a function that makes the contestant, or says why it cannot.

    Args:
      case: without statistics.
      statistics: our own also reports these, and once more ``received``, as contestants of their own; none for neither.
      torch_python: a Python that has PyTorch, or None.
    """
    first, on_tpu = "blockwise", {}
    if jax.default_backend() == "tpu":
        first = "mosaic_tpu"
        on_tpu = {first: lambda: own(first, case), "splash": lambda: splash(case)}
    makers: dict[str, Callable[[], Contestant]] = {
        **on_tpu,
        "blockwise": lambda: own("blockwise", case),
        "reference": lambda: own("reference", case),
        "einsum": lambda: einsum(case),
        "jax.nn": lambda: jax_nn(case),
        "tokamax xla": lambda: tokamax(case, "xla"),
        "tokamax xla_chunked": lambda: tokamax(case, "xla_chunked"),
    }
    if statistics:
        asked = {"+ statistics": statistics, "+ received": ("received",)}
        for label, names in asked.items():
            reporting = dataclasses.replace(case, statistics=names)
            makers[label] = functools.partial(own, first, reporting, label)
    if torch_python:
        for kind in ("sdpa", "compile"):
            makers[f"torch {kind}"] = functools.partial(torch_attention, torch_python, kind, case)
    return makers


def _precision(case: Case) -> str:
    """Of products in peers: float32 stays float32, which accelerators multiply in less where nothing is said."""
    return "highest" if case.dtype == "float32" else "default"


def _sees_all(spec: Spec) -> bool:
    return spec.sees is None and not spec.causal


def compete(contestants: Sequence[Contestant], rounds: int, after: Callable[[int], None] = lambda done: None) -> list:
    """Lets contestants run in turn, every round in another order.

    Threads of PyTorch and of XLA wait awake for a while after a run, so the next contestant starts when they sleep. Its
    first run of a turn is not counted: it finds the memory that others have given back to the system, and the caches
    they left.
    """
    wall: list[list[float]] = [[] for _ in contestants]
    cpu: list[list[float]] = [[] for _ in contestants]
    order = random.Random(0)
    for number in range(rounds):
        for index in order.sample(range(len(contestants)), len(contestants)):
            time.sleep(PAUSE)
            contestants[index].run()
            seconds = contestants[index].run()
            wall[index].append(seconds[0])
            cpu[index].append(seconds[1])
        after(number + 1)
    return [Measured(c.name, w, p, c.memory) for c, w, p in zip(contestants, wall, cpu, strict=True)]
