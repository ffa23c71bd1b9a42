"""Random calls of attention, and the error-ratio rule by which their results are judged."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kernels.attention import STATISTICS, Layout, Mask, attention, dropout_seeds
from kernels.attention.dropout import kept
from tests.kernels.attention import dense

# Halves the time of tests that compile often and run once.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
DIFFERENTIABLE = ("output", *STATISTICS)
# Between keys whose scores differ by less the gradient of ``peak`` jumps where float32 cannot tell which is the peak.
LEAD = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: arrays in float32, everything else as attention takes it."""

    arrays: dict[str, np.ndarray]
    mask: Mask | None
    softcap: float | None = None
    dropout: tuple[float, int] | None = None
    scale: float | None = None


def cotangents_like(values: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random cotangents of unit size, 0 where a value is infinite (lse of an empty row)."""
    return {
        name: np.where(np.isfinite(values[name]), rng.normal(size=values[name].shape), 0).astype(np.float32)
        for name in DIFFERENTIABLE
    }


def groups_of(mask: Mask | None, keys: int) -> tuple[tuple[int, int], ...]:
    return ((0, keys),) if mask is None else mask.keys.ranges


def truth(case: Case, dtype: Any, cotangents: dict[str, np.ndarray] | None) -> tuple[dict, dict, dict]:
    """Values, gradients and their magnitudes from the NumPy computation in float64, float32 or bfloat16's roundings."""
    batch, queries, heads, width = case.arrays["query"].shape
    keys = case.arrays["key"].shape[1]
    seen = np.ones((batch, queries, keys), bool) if case.mask is None else dense.visible(case.mask, batch)
    keep = None
    if case.dropout is not None:
        rate, seed = case.dropout
        survives = kept(rate, dropout_seeds(seed, batch, heads), np.arange(queries), np.arange(keys))
        keep = np.asarray(survives) / (1 - rate)
    scale = 1 / np.sqrt(width) if case.scale is None else case.scale
    return dense.attend(
        case.arrays, seen, groups_of(case.mask, keys), cotangents,
        scale=scale, softcap=case.softcap, keep=keep, dtype=dtype,
    )  # fmt: skip


@functools.lru_cache(maxsize=4)
def compiled(
    implementation: str,
    scale: float | None,
    softcap: float | None,
    dropout: tuple[float, int] | None,
    quick: bool,
    statistics: tuple[str, ...],
) -> Any:
    """Values and gradients in one compiled function, which many masks share; ``quick`` to compile, slower to run."""

    def call(arrays, mask):
        attended = attention(
            arrays["query"], arrays["key"], arrays["value"],
            bias=arrays.get("bias"), mask=mask, scale=scale, softcap=softcap, dropout=dropout,
            statistics=statistics, implementation=implementation,
            received_weights=arrays["received_weights"] if "received" in statistics else None,
        )  # fmt: skip
        values = {"output": attended.output, **attended.statistics}
        nonempty = values.pop("nonempty", None)
        return values, nonempty

    def both(arrays, mask, cotangents):
        values, pull, nonempty = jax.vjp(lambda arrays: call(arrays, mask), arrays, has_aux=True)
        cotangents = {name: cotangents[name].astype(value.dtype) for name, value in values.items()}
        return {**values, **({} if nonempty is None else {"nonempty": nonempty})}, pull(cotangents)[0]

    return jax.jit(both, compiler_options=QUICK_TO_COMPILE if quick else None)


def run(
    case: Case,
    implementation: str,
    dtype: Any,
    cotangents: dict[str, np.ndarray],
    quick: bool,
    statistics: tuple[str, ...] = STATISTICS,
) -> tuple[dict, dict]:
    """Values and gradients of an implementation."""
    arrays = {
        name: jnp.asarray(array, dtype if name in ("query", "key", "value") else None)
        for name, array in case.arrays.items()
    }
    function = compiled(implementation, case.scale, case.softcap, case.dropout, quick, statistics)
    return jax.tree.map(np.asarray, function(arrays, jax.tree.map(jnp.asarray, case.mask), cotangents))


def check(
    case: Case,
    implementation: str,
    dtype: Any,
    rng: np.random.Generator,
    quick: bool = False,
    statistics: tuple[str, ...] = STATISTICS,
) -> tuple[dict, dict]:
    """Values and gradients by the error-ratio rule, of the output and some statistics; returns those found."""
    if dtype == ml_dtypes.bfloat16:
        rounded = {
            name: array.astype(dtype).astype(np.float32) if name in ("query", "key", "value") else array
            for name, array in case.arrays.items()
        }
        case = dataclasses.replace(case, arrays=rounded)
    values, _, _ = truth(case, np.float64, None)
    cotangents = cotangents_like(values, rng)
    cotangents["peak"][values["lead"] <= LEAD] = 0
    cotangents["output"] = cotangents["output"].astype(dtype).astype(np.float32)
    asked = {"output", *statistics}
    cotangents = {name: one if name in asked else np.zeros_like(one) for name, one in cotangents.items()}
    *exact, magnitudes = truth(case, np.float64, cotangents)
    *peer, _ = truth(case, dtype, cotangents)
    found = run(case, implementation, dtype, cotangents, quick, statistics)
    named = asked | ({"nonempty"} if "lse" in statistics else set())
    exact[0] = {name: value for name, value in exact[0].items() if name in named}
    kinds = zip(("value", "gradient"), exact, peer, found, (None, magnitudes), strict=True)
    for kind, want, same, got, terms in kinds:
        assert set(got) == set(want)
        for name in want:
            within_ratio(
                f"{kind} of {name}", got[name], same[name], want[name], dtype, terms[name].max() if terms else 0.0
            )
    return found


def within_ratio(
    what: str, got: np.ndarray, same: np.ndarray, want: np.ndarray, dtype: Any, terms: float = 0.0
) -> None:
    """Asserts: the largest error is at most twice that of the same-precision dense version, plus rounding.

    Rounding is that of the result in ``dtype``, and that of summing ``terms``, the sizes of all terms, in float32.
    """
    assert got.shape == want.shape, what
    if want.dtype == bool:
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    assert not np.isnan(got).any(), what
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=what)
    if not finite.any():
        return
    got, same, want = (array[finite].astype(np.float64) for array in (got, same, want))
    size = max(1.0, np.abs(want).max())
    rounding = 8 * float(ml_dtypes.finfo(dtype).eps) * size + float(np.finfo(np.float32).eps) * terms
    error, allowed = np.abs(got - want).max(), 2 * np.abs(same - want).max() + rounding
    assert error <= allowed, f"{what}: error {error:.2e}, allowed {allowed:.2e}"


def validity(rng: np.random.Generator, queries: Layout, keys: Layout, batch: int) -> dict[str, Any]:
    """The dynamic half of a mask; rates of 0 and 1 among them, so that rows, samples and modalities vanish."""

    def flags(*shape):
        return rng.random(shape) < rng.choice([0, 0.2, 0.8, 1], size=(shape[0], 1))

    return {
        "query_valid": flags(batch, queries.length),
        "key_valid": flags(batch, keys.length),
        "presence": flags(batch, len(keys.names)),
        "segments": tuple(rng.integers(0, 3, (batch, side.length)) for side in (queries, keys)),
    }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A call of any shape in plain numbers: hypothesis draws these, and the test builds the arrays and the mask.

    ``queries`` and ``keys`` are the lengths of the groups; no ``keys`` is self-attention. ``dynamic`` names the dynamic
    parts of the mask that are given.
    """

    seed: int
    batch: int
    shared: int
    multiple: int
    queries: tuple[int, ...]
    keys: tuple[int, ...] | None
    width: int
    value_width: int
    columns: int
    bias: tuple[bool, bool, bool, bool] | None
    masked: bool
    restricted: bool
    causal: bool
    window: tuple[int | None, int | None] | None
    dynamic: frozenset[str]
    softcap: float | None
    dropout: tuple[float, int] | None
    scale: float | None

    def build(self) -> Case:
        rng = np.random.default_rng(self.seed)
        queries = Layout(tuple("abcdef"[: len(self.queries)]), self.queries)
        keys = queries if self.keys is None else Layout(tuple("abcdef"[: len(self.keys)]), self.keys)
        heads = self.shared * self.multiple
        shapes = {
            "query": (self.batch, queries.length, heads, self.width),
            "key": (self.batch, keys.length, self.shared, self.width),
            "value": (self.batch, keys.length, self.shared, self.value_width),
            "received_weights": (self.batch, queries.length, self.columns),
        }
        if self.bias is not None:
            full = (self.batch, heads, queries.length, keys.length)
            shapes["bias"] = tuple(size if whole else 1 for size, whole in zip(full, self.bias, strict=True))
        arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        mask = None
        if self.masked:
            every = [(query, key) for query in queries.names for key in keys.names]
            sees = [pair for pair in every if rng.random() < 0.7] if self.restricted else None
            parts = validity(rng, queries, keys, self.batch)
            mask = Mask(
                queries, keys, sees=sees, causal=self.causal, window=self.window,
                **{name: part for name, part in parts.items() if name in self.dynamic},
            )  # fmt: skip
        return Case(arrays, mask, self.softcap, self.dropout, self.scale)


def recipes(longest: int) -> st.SearchStrategy[Recipe]:
    """Calls of any shape, with up to ``longest`` tokens on either side."""
    lengths = st.integers(1, 6).flatmap(
        lambda count: st.lists(st.integers(1, max(1, longest // count)), min_size=count, max_size=count).map(tuple)
    )
    return st.builds(
        Recipe,
        seed=st.integers(0, 2**32 - 1),
        batch=st.integers(1, 2),
        shared=st.integers(1, 2),
        multiple=st.integers(1, 3),
        queries=lengths,
        keys=st.none() | lengths,
        width=st.integers(1, 40) | st.sampled_from([64, 128, 256]),
        value_width=st.integers(1, 40),
        columns=st.integers(1, 3),
        bias=st.none() | st.tuples(*[st.booleans()] * 4),
        masked=st.booleans(),
        restricted=st.booleans(),
        causal=st.booleans(),
        window=st.none() | st.tuples(*[st.none() | st.integers(0, 8)] * 2),
        dynamic=st.frozensets(st.sampled_from(["query_valid", "key_valid", "presence", "segments"])),
        softcap=st.sampled_from([None, 3.0]),
        dropout=st.sampled_from([None, (0.3, 17)]),
        scale=st.sampled_from([None, 0.3]),
    )
