"""What a model's attention reports: statistics of the kernels, asked for from outside.

Models know nothing of it. Whoever calls one under ``recording`` is given the statistics of every attention in it,
by site; a site is one place in a stack of layers (``fusion``, ``unimodal.audio``), with one entry a layer. Two more
than the kernels have may be asked for: VALUE_MASS, for which each attention is computed once more, and KEY_VALID, the
keys that there are. Under ``tapping`` it is given the calls themselves, and may change what they return; ``tapped``
adds gradients to them.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.streams import Batch, Output
from kernels.attention import Layout, Mask
from kernels.attention.mask import pairs
from kernels.attention.statistics import check_names

VALUE_MASS = "value_mass"
"""sum_{j in g} P_ij ||V_j W_O,h||_2, [B, H, N, G] (norms: Kobayashi et al. 2020): mass by how far a value can move what
comes out of the block of the query. Where nothing projects what is attended to, W_O is the identity."""
KEY_VALID = "key_valid"
"""Which keys a sample has, bool [B, Nk]: what is padded or missing is False, whoever asks."""
OWN = (VALUE_MASS, KEY_VALID)
"""What is asked for here, not of the kernels."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["statistics"],
    meta_fields=["queries", "keys", "in_sight", "stacked", "sees"],
)
@dataclasses.dataclass(frozen=True)
class Site:
    """The statistics of one place in a model, ``site["mass"]`` and so on.

    Attributes:
      statistics: name -> [layer, B, H, N, ...]; see ``kernels.attention.statistics`` for what each means, and
        VALUE_MASS; KEY_VALID is [layer, B, Nk].
      queries, keys: groups of tokens, which mass counts by; a modality without further words is its own tokens.
      in_sight: for each group of queries the number of keys that it may see, missing ones counted.
      stacked: whether the axis of layers is there already.
      sees: pairs (group of queries, group of keys) that may meet; None is all of them.
    """

    statistics: Mapping[str, Array | np.ndarray]
    queries: Layout
    keys: Layout
    in_sight: tuple[int, ...]
    stacked: bool = True
    sees: tuple[tuple[str, str], ...] | None = None

    def __getitem__(self, name: str) -> Array | np.ndarray:
        return self.statistics[name]

    def share(self, modality: str) -> Array | np.ndarray:
        """Attention mass on the tokens of one group of keys: [layer, B, H, N]. Needs ``mass``."""
        return self.statistics["mass"][..., self.keys.names.index(modality)]


Records = dict[str, list[Site]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query", "key", "value", "mask", "bias", "output", "gradient"],
    meta_fields=["site"],
)
@dataclasses.dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes:
      site: its name, as in ``recording``; the calls of one name are the layers there.
      query, key, value, mask, bias: what it was given.
      output: [B, Nq, H, Dv], before the last projection.
      gradient: of a score at the output, [B, Nq, H, Dv]; None unless ``tapped`` took it.
    """

    site: str
    query: Any
    key: Any
    value: Any
    mask: Any
    bias: Any
    output: Any
    gradient: Any = None


Change = Callable[[int, Array], Array]
"""(number of the call, its output) -> what the model is given in place of that."""


@dataclasses.dataclass(frozen=True)
class _Recorder:
    names: tuple[str, ...] = ()
    records: Records = dataclasses.field(default_factory=dict)
    prefix: str = ""
    calls: list[Call] | None = None
    change: Change | None = None

    def named(self, name: str) -> str:
        return ".".join(part for part in (self.prefix, name) if part)


_current: contextvars.ContextVar[_Recorder | None] = contextvars.ContextVar("statistics", default=None)
_parts: contextvars.ContextVar[Mapping[str, Layout] | None] = contextvars.ContextVar("parts of groups", default=None)


def wanted() -> tuple[str, ...]:
    """Names of the statistics that are being recorded."""
    recorder = _current.get()
    return () if recorder is None else recorder.names


def divided(mask: Mask) -> Mask:
    """The mask with the groups that statistics are to tell apart."""
    parts = _parts.get()
    return mask.divided(parts) if parts else mask


def key_valid(mask: Mask, rows: int) -> Bool[Array, "B Nk"]:
    """KEY_VALID of one call."""
    valid = jnp.ones((rows, mask.keys.length), bool) if mask.key_valid is None else mask.key_valid
    if mask.presence is None:
        return valid
    there = [jnp.repeat(mask.presence[:, [k]], n, axis=1) for k, n in enumerate(mask.keys.lengths)]
    return valid & jnp.concatenate(there, axis=1)


def record(name: str, statistics: Mapping[str, Array], mask: Mask) -> None:
    """Keeps the statistics of one call of attention at the site of this name in the stack that is running."""
    recorder = _current.get()
    site = recorder.named(name) or "attention"
    in_sight = [0] * len(mask.queries.names)
    for pair in pairs(mask):
        for group, (begin, end) in enumerate(mask.queries.ranges):
            if pair.queries[0] <= begin < end <= pair.queries[1]:
                in_sight[group] = len(pair.columns)
    found = Site(dict(statistics), mask.queries, mask.keys, tuple(in_sight), stacked=False, sees=mask.sees)
    recorder.records.setdefault(site, []).append(found)


def tap(
    name: str, query: Array, key: Array, value: Array, mask: Mask, bias: Array | None, output: Array
) -> Float[Array, "B Nq H Dv"]:
    """Keeps a call of attention, where calls are kept, and returns what the model is to go on with."""
    recorder = _current.get()
    if recorder is None or recorder.calls is None:
        return output
    number, site = len(recorder.calls), recorder.named(name) or "attention"
    recorder.calls.append(Call(site, query, key, value, mask, bias, output))
    return output if recorder.change is None else recorder.change(number, output)


@contextlib.contextmanager
def recording(names: Sequence[str]) -> Iterator[dict[str, Site]]:
    """Collects statistics of what is called inside; the dictionary, site -> Site, is filled at the end.

    Where something is jitted, this belongs inside: a program that is compiled already reports nothing.

    Raises:
      ValueError: for statistics that do not exist, and where nothing attended.
    """
    check_names([name for name in names if name not in OWN])
    recorder, sites = _Recorder(tuple(names)), {}
    token = _current.set(recorder)
    try:
        yield sites
    finally:
        _current.reset(token)
    if names and not recorder.records:
        raise ValueError(
            "statistics were asked for, but no attention was traced: the model has none, or it was jitted before; put"
            " the recording inside the function that is jitted"
        )
    sites |= {site: _joined(site, found) for site, found in recorder.records.items()}


@contextlib.contextmanager
def dividing(parts: Mapping[str, Layout]) -> Iterator[None]:
    """Statistics that are recorded inside count some groups in parts, such as a class token apart from its modality.

    Args:
      parts: as of ``Mask.divided``.
    """
    token = _parts.set(parts)
    try:
        yield
    finally:
        _parts.reset(token)


@contextlib.contextmanager
def tapping(change: Change | None = None) -> Iterator[list[Call]]:
    """Keeps every call of attention that is made inside, in the order of execution, and passes its output through
    ``change``. A ``recording`` around it goes on; calls under a recording of their own inside are not kept.

    Where something is jitted, this belongs inside, as ``recording`` does; layers must run one by one.

    Raises:
      ValueError: where layers are scanned or rematerialised.
    """
    calls: list[Call] = []
    token = _current.set(dataclasses.replace(_current.get() or _Recorder(), calls=calls, change=change))
    try:
        yield calls
    finally:
        _current.reset(token)


def tapped(score: Callable[..., Float[Array, " B"]], *arguments: Any) -> tuple[Float[Array, " B"], tuple[Call, ...]]:
    """score(*arguments), and every call of attention in it with dO_i, the gradient of the score at its output.

    Rows must not know of each other, as in a model that is evaluated: then the gradient of the sum of all scores is
    that of each row's own. One forward and one backward pass; belongs inside of jit.
    """

    def run(added: Sequence[Array] | None) -> tuple[Array, tuple[Array, tuple[Call, ...]]]:
        with tapping(None if added is None else lambda number, output: output + added[number]) as calls:
            value = score(*arguments)
        return value.sum(), (value, tuple(calls))

    _, (_, shapes) = jax.eval_shape(lambda: run(None))
    nothing = [jnp.zeros(call.output.shape, call.output.dtype) for call in shapes]
    gradients, (value, calls) = jax.grad(run, has_aux=True)(nothing)
    pairs_of = zip(calls, gradients, strict=True)
    return value, tuple(dataclasses.replace(call, gradient=gradient) for call, gradient in pairs_of)


@contextlib.contextmanager
def site(name: str) -> Iterator[None]:
    """Names the sites inside: what is recorded as ``audio`` in the site ``unimodal`` is ``unimodal.audio``."""
    recorder = _current.get()
    token = None
    if recorder is not None:
        token = _current.set(dataclasses.replace(recorder, prefix=recorder.named(name)))
    try:
        yield
    finally:
        if token is not None:
            _current.reset(token)


def returning_records(function: Callable[..., Any]) -> Callable[..., tuple[Any, Records]]:
    """``function`` with what it records as a second result.

    For functions that JAX traces by themselves (scanned, rematerialised): what they compute leaves them as a result or
    not at all. ``replay`` records it again outside.
    """

    @functools.wraps(function)
    def traced(*arguments: Any) -> tuple[Any, Records]:
        recorder = _current.get()
        if recorder is None:
            return function(*arguments), {}
        inner = dataclasses.replace(recorder, records={}, calls=None, change=None)
        token = _current.set(inner)
        try:
            result = function(*arguments)
        finally:
            _current.reset(token)
        return result, inner.records

    return traced


def replay(records: Records, *, stacked: bool = False) -> None:
    """Records what a traced function has returned; ``stacked``: with the axis of a scan over layers in front."""
    recorder = _current.get()
    if recorder is not None and recorder.calls is not None:
        raise ValueError(
            "calls of attention cannot be kept of layers that are scanned or rematerialised: view the model with"
            " scan=False, remat='none'"
        )
    for name, found in records.items():
        if stacked and len(found) > 1:
            raise ValueError(
                f"a scanned layer attends {len(found)} times at {name!r}, and its calls would lie in another order than"
                " in a loop: run each under avjax.nn.statistics.site with a name of its own"
            )
        found = [dataclasses.replace(one, stacked=True) for one in found] if stacked else found
        recorder.records.setdefault(name, []).extend(found)


def _joined(name: str, found: list[Site]) -> Site:
    """The layers of a site along a first axis."""
    kinds = {(one.queries, one.keys, one.in_sight, one.sees) for one in found}
    if len(kinds) > 1:
        raise ValueError(
            f"the calls of attention at {name!r} differ in their tokens ({kinds}): run them under"
            " avjax.nn.statistics.site with a name each"
        )
    parts = [one.statistics if one.stacked else {n: x[None] for n, x in one.statistics.items()} for one in found]
    return Site(
        {n: jnp.concatenate([part[n] for part in parts]) for n in parts[0]},
        found[0].queries,
        found[0].keys,
        found[0].in_sight,
        sees=found[0].sees,
    )


def call_and_capture(
    model: nnx.Module,
    batch: Batch,
    names: Sequence[str],
    keep: Mapping[str, Bool[Array, "B _"]] | None = None,
) -> tuple[Output, dict[str, Site]]:
    """The model's output, and the statistics of its attention (see ``capture_statistics``)."""
    with recording(names) as sites:
        output = model(batch, keep)
    return output, sites


def capture_statistics(
    model: nnx.Module,
    batch: Batch,
    names: Sequence[str],
    keep: Mapping[str, Bool[Array, "B _"]] | None = None,
) -> dict[str, Site]:
    """What the attention of a model does with a batch: site -> statistic -> [layer, B, H, N, ...].

    ``capture_statistics(model, batch, ("mass", "entropy"))["fusion"]["mass"]`` are the shares of attention that every
    token pays to each group of keys, ``["fusion"].keys.names``. May be called under jit and differentiated.

    Args:
      names: of ``kernels.attention.STATISTICS``, VALUE_MASS and KEY_VALID.
      keep: modality -> [B, N], False hides a token.

    Raises:
      ValueError: for statistics that do not exist.
    """
    return call_and_capture(model, batch, names, keep)[1]
