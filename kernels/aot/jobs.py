"""What is compiled ahead of time: an implementation at a shape, and how many steps its grid takes there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.attention import attention
from kernels.attention.mask import Mask, presence_of_tokens
from kernels.attention.mosaic_tpu import target
from kernels.attention.mosaic_tpu.steps import VISITED, WHOLE, Grid, Walk, Words, by_blocks, by_columns, by_rows
from kernels.attention.mosaic_tpu.tile import Sizes
from kernels.attention.specs import NAMED, Spec
from kernels.attention.statistics import OF_OUTPUTS

OURS = ("mosaic_tpu", "blockwise", "reference")
IMPLEMENTATIONS = (*OURS, "splash", "jax.nn")


@dataclasses.dataclass(frozen=True)
class Job:
    """One program. In plain values, so that it goes to another process as JSON.

    Attributes:
      target: one of target.TARGETS.
      spec: by its name in kernels/attention/specs.py.
      implementation: one of IMPLEMENTATIONS.
      batch, dtype: of query, key and value.
      direction: ``forward``, or ``both`` for gradients of query, key, value (and bias) too.
      statistics: returned, and in ``both`` differentiated.
      bias: one over heads, queries and keys is added.
      dynamic: validity of keys and presence of groups are arrays.
      sizes: of all blocks, in place of those on file: rows, columns, row chunk, column chunk.
    """

    target: str
    spec: str
    implementation: str = "mosaic_tpu"
    batch: int = 8
    dtype: str = "bfloat16"
    direction: str = "forward"
    statistics: tuple[str, ...] = ()
    bias: bool = False
    dynamic: bool = False
    sizes: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Job:
        """From JSON."""
        sizes = plain.get("sizes")
        return cls(
            **{**plain, "statistics": tuple(plain["statistics"]), "sizes": None if sizes is None else tuple(sizes)}
        )

    @property
    def name(self) -> str:
        """Says everything but the sizes."""
        parts = [self.target, self.spec, self.implementation, f"batch {self.batch}", self.dtype, self.direction]
        parts += [part for part, there in (("bias", self.bias), ("dynamic", self.dynamic)) if there]
        return ", ".join([*parts, *(["+".join(self.statistics)] if self.statistics else [])])

    def shape(self) -> Spec:
        return NAMED[self.spec]

    def target_for(self) -> target.Target:
        return target.Target(self.target, fixed=None if self.sizes is None else Sizes(*self.sizes))

    def sizes_of(self, direction: str) -> Sizes:
        """Of the blocks of a kernel."""
        spec = self.shape()
        multiple = spec.heads // (spec.shared or spec.heads)
        width = max(spec.width, spec.value_width or spec.width)
        shape = target.Shape(spec.queries.length, spec.keys.length, width, self.dtype)
        return self.target_for().sizes(direction, shape, multiple)


def arguments(job: Job) -> list[jax.ShapeDtypeStruct]:
    """Of the function of a job: query, key, value, and bias, validity and presence where it has them."""
    spec = job.shape()
    result = [jax.ShapeDtypeStruct(shape, jnp.dtype(job.dtype)) for shape in spec.shapes(job.batch).values()]
    if job.bias:
        shape = (1, spec.heads, spec.queries.length, spec.keys.length)
        result.append(jax.ShapeDtypeStruct(shape, jnp.dtype(job.dtype)))
    if job.dynamic:
        result.append(jax.ShapeDtypeStruct((job.batch, spec.keys.length), jnp.bool_))
        result.append(jax.ShapeDtypeStruct((job.batch, len(spec.keys.names)), jnp.bool_))
    return result


def function(job: Job) -> Callable[..., Any]:
    """What is compiled, of ``arguments``.

    Raises:
      ValueError: where the implementation cannot do the job.
    """
    forward = _own(job) if job.implementation in OURS else _PEERS[job.implementation](job)
    if job.direction == "forward":
        return forward
    count = 4 if job.bias else 3

    def both(*arrays: Any) -> Any:
        def loss(*differentiated: Any) -> Any:
            leaves = jax.tree.leaves(forward(*differentiated, *arrays[count:]))
            # The square makes every upstream gradient an array that must be read.
            return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in leaves if leaf.dtype != bool)

        return jax.grad(loss, tuple(range(count)))(*arrays[:count])

    return both


def _own(job: Job) -> Callable[..., Any]:
    spec = job.shape()

    def call(query: Any, key: Any, value: Any, *more: Any) -> Any:
        rest = list(more)
        bias = rest.pop(0) if job.bias else None
        dynamic = {"key_valid": rest[0], "presence": rest[1]} if job.dynamic else {}
        return attention(
            query, key, value, bias=bias, mask=spec.mask(**dynamic), statistics=job.statistics,
            implementation=job.implementation,
        )  # fmt: skip

    return call


def _jax_nn(job: Job) -> Callable[..., Any]:
    """jax.nn.dot_product_attention, which on TPU is dense."""
    spec = job.shape()
    _refuse(job, "statistics")
    static = jnp.asarray(spec.seen())[None, None]

    def call(query: Any, key: Any, value: Any, *more: Any) -> Any:
        rest = list(more)
        bias = rest.pop(0) if job.bias else None
        seen = static
        if job.dynamic:
            valid, presence = rest
            there = valid & presence_of_tokens(spec.mask(presence=presence))[1]
            seen = seen & there[:, None, None, :]
        return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=seen)

    return call


def _splash(job: Job) -> Callable[..., Any]:
    """Splash attention, the fused attention that JAX has for TPU: filled up to whole blocks, hidden keys by segment."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_masks

    _refuse(job, "statistics", "bias")
    spec = job.shape()
    if spec.shared not in (None, spec.heads) or spec.value_width not in (None, spec.width):
        raise ValueError("splash is asked here for as many key heads as query heads, all of one width")
    rows, columns = job.sizes_of("forward")[:2]
    queries, keys = filled(spec.queries.length, rows), filled(spec.keys.length, columns)
    seen = splash_mask(spec, queries, keys)
    mask = splash_masks.FullMask(seen.shape) if seen.all() else splash_masks.NumpyMask(seen)
    blocks = {
        f"block_{name}": rows if name.startswith("q") else columns
        for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    }
    kernel = library.make_splash_mha(
        splash_masks.MultiHeadMask([mask] * spec.heads), block_sizes=library.BlockSizes(**blocks), head_shards=1,
        q_seq_shards=1,
    )  # fmt: skip

    def call(query: Any, key: Any, value: Any, *more: Any) -> Any:
        arrays = [
            jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))
            for x, length in ((query, queries), (key, keys), (value, keys))
        ]
        segments = None
        if job.dynamic:
            valid, presence = more
            there = valid & presence_of_tokens(spec.mask(presence=presence))[1]
            there = jnp.pad(there, ((0, 0), (0, keys - there.shape[1]))).astype(jnp.int32)
            segments = library.SegmentIds(jnp.ones((job.batch, queries), jnp.int32), there)
        output = jax.vmap(kernel)(arrays[0] / spec.width**0.5, arrays[1], arrays[2], segments)
        return jnp.swapaxes(output[:, :, : query.shape[1]], 1, 2)

    return call


_PEERS = {"jax.nn": _jax_nn, "splash": _splash}


def _refuse(job: Job, *features: str) -> None:
    for name in features:
        if getattr(job, name):
            raise ValueError(f"{job.implementation} has no {name}")


def filled(length: int, block: int) -> int:
    """A length in whole blocks."""
    return -(-length // block) * block


def splash_mask(spec: Spec, queries: int, keys: int) -> np.ndarray:
    """The mask that splash is given: filled-up rows see the first key, since it has no rows that see nothing."""
    seen = np.zeros((queries, keys), bool)
    seen[: spec.queries.length, : spec.keys.length] = spec.seen()
    seen[spec.queries.length :, 0] = True
    return seen


def mask_at(spec: Spec, batch: int, presence: dict[str, float], valid: float) -> Mask:
    """A mask in which groups are there in a share of the samples, and a share of each group's keys are.

    Raises:
      ValueError: for a group that the spec does not have.
    """
    names = spec.keys.names
    if unknown := set(presence) - set(names):
        raise ValueError(f"presence: {spec.name} has no group {sorted(unknown)[0]!r}; it has {', '.join(names)}")
    there = np.ones((batch, len(names)), bool)
    for name, share in presence.items():
        there[round(share * batch) :, names.index(name)] = False
    kept = np.concatenate([np.arange(length) < round(valid * length) for length in spec.keys.lengths])
    return spec.mask(presence=jnp.asarray(there), key_valid=jnp.asarray(np.broadcast_to(kept, (batch, len(kept)))))


def executed(job: Job, mask: Mask | None = None) -> dict[str, dict[str, int]]:
    """Steps that the kernels of a job execute, of all samples and heads: without a mask of their own, and with one.

    Args:
      mask: with validity and presence; default the spec's own, where nothing is missing.
    """
    spec = job.shape()
    if job.implementation == "splash":
        rows, columns = job.sizes_of("forward")[:2]
        seen = splash_mask(spec, filled(spec.queries.length, rows), filled(spec.keys.length, columns))
        blocks = seen.reshape(seen.shape[0] // rows, rows, seen.shape[1] // columns, columns)
        count = int(blocks.any((1, 3)).sum()) * job.batch * spec.heads
        kernels = ("forward",) if job.direction == "forward" else ("forward", "of_queries", "of_keys")
        return {kernel: {"whole": count, "masked": 0} for kernel in kernels}
    mask = spec.mask() if mask is None else mask
    result = {}
    shared = spec.shared or spec.heads
    split = not OF_OUTPUTS.isdisjoint(job.statistics)
    by_group = not {"mass", "group_entropy"}.isdisjoint(job.statistics) and len(spec.keys.names) > 1

    def count(kernel: str, walk_of: Callable[[Grid, Words], Walk]) -> None:
        sizes = job.sizes_of("of_keys" if kernel == "of_bias" else "received" if kernel == "found" else kernel)
        grid = Grid.of(mask, sizes.rows, sizes.columns, split=split and kernel not in ("received", "found"))
        walk = walk_of(grid, Words.of(grid, mask, over_queries=kernel in ("received", "of_keys", "of_bias")))
        flags = np.asarray(walk.scalars["flags"])
        visited, whole = (flags & VISITED) != 0, (flags & WHOLE) != 0
        times = int(np.prod(walk.grid)) // len(flags)
        result[kernel] = {"whole": int(whole.sum()) * times, "masked": int((visited & ~whole).sum()) * times}

    sizes = (job.batch, spec.heads, shared)
    simple = {"mixed_is_whole": not by_group}
    count("forward", lambda grid, words: by_rows(grid, words, *sizes, **simple))
    if "received" in job.statistics:
        count("received", lambda grid, words: by_columns(grid, words, *sizes, mixed_is_whole=True, each_head=True))
    if job.direction == "both":
        if "received" in job.statistics:
            count("found", lambda grid, words: by_rows(grid, words, *sizes, mixed_is_whole=True))
        count("of_queries", lambda grid, words: by_rows(grid, words, *sizes, **simple))
        count("of_keys", lambda grid, words: by_columns(grid, words, *sizes, **simple))
        if job.bias:
            kept = (False, True, True, True)
            count("of_bias", lambda grid, words: by_blocks(grid, words, *sizes, kept, **simple))
    return result
