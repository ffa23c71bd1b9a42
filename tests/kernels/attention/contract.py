"""What every implementation of attention must fulfil: inherit AttentionContract and name the implementation."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.attention import STATISTICS, Layout, Mask, attention, dropout_seeds
from kernels.attention.specs import TABLE, Spec
from tests.kernels.attention import dense
from tests.kernels.attention.cases import QUICK_TO_COMPILE, Case, Recipe, check, recipes, truth, validity, within_ratio
from tests.levels import in_short

QUICK = [spec.name for spec in TABLE.values() if spec.tokens <= 200]
SLOW = [spec.name for spec in TABLE.values() if spec.tokens > 200 and not spec.long]
LONG = [spec.name for spec in TABLE.values() if spec.long]

# Every example compiles, so shrinking a failure would take minutes; its recipe is readable as it is.
UNSHRUNK = tuple(
    phase for phase in hypothesis.Phase if phase not in (hypothesis.Phase.shrink, hypothesis.Phase.explain)
)


# One test for several classes is what a contract is.
SHARED = (hypothesis.HealthCheck.differing_executors,)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def from_spec(spec: Spec, rng: np.random.Generator, batch: int = 1) -> Case:
    """Random arrays of a specification; the last keys are padding and, in a second sample, one group is absent."""
    arrays = {name: normal(rng, *shape) for name, shape in spec.shapes(batch).items()}
    arrays["received_weights"] = normal(rng, batch, spec.queries.length, 2)
    arrays["bias"] = normal(rng, 1, spec.heads, 1, spec.keys.length)
    valid = np.arange(spec.keys.length)[None] < spec.keys.length - 1 - np.arange(batch)[:, None]
    presence = np.ones((batch, len(spec.keys.names)), bool)
    presence[1:, -1] = False
    return Case(arrays, spec.mask(key_valid=valid, presence=presence))


# A call whose scores XLA on CPU computes twice, rounded differently, unless it is kept from it: a peak compared with
# them is not found, and its gradient is lost.
SCORES_TWICE = Recipe(
    seed=147027, batch=2, shared=1, multiple=2, queries=(3, 9, 4, 14), keys=(6, 3, 1), width=24, value_width=13,
    columns=3, bias=(False, False, True, True), masked=True, restricted=True, causal=False, window=None,
    dynamic=frozenset({"key_valid", "segments"}), softcap=3.0, dropout=(0.3, 17), scale=None,
)  # fmt: skip


class AttentionContract:
    """The shared tests. Subclasses set:

    implementation: the name to ask ``attention`` for.
    long: whether 16k and 64k tokens fit, with memory O(N).
    """

    implementation: ClassVar[str]
    long: ClassVar[bool] = True

    @pytest.fixture(autouse=True)
    def _no_nan(self):
        with jax.debug_nans(True):
            yield

    def attend(self, *arrays: Any, **options: Any):
        """One call of the implementation, to be traced."""
        return attention(*arrays, implementation=self.implementation, **options)

    def attended(self, *arrays: Any, mask: Mask | None = None, **options: Any):
        """One call of the implementation, compiled and run."""

        def call(arrays, mask):
            return self.attend(*arrays, mask=mask, **options)

        return jax.jit(call, compiler_options=QUICK_TO_COMPILE)(arrays, mask)

    # Values and gradients

    def test_everything_at_once(self, rng):
        """Every feature in one call, so that none hangs on what hypothesis draws; group c sees nothing at all."""
        queries, keys = Layout.of(a=7, b=5, c=2), Layout.of(a=6, d=9)
        mask = Mask(
            queries, keys, sees=[("a", "a"), ("a", "d"), ("b", "d")], window=(3, 2),
            key_valid=rng.random((2, 15)) < 0.8, query_valid=rng.random((2, 14)) < 0.8,
            presence=np.array([[True, True], [False, True]]),
            segments=(np.ones((2, 14), int), rng.choice([1, 1, 1, 2], (2, 15))),
        )  # fmt: skip
        arrays = {"query": normal(rng, 2, 14, 4, 8), "key": normal(rng, 2, 15, 2, 8), "value": normal(rng, 2, 15, 2, 3)}
        arrays |= {"bias": normal(rng, 1, 4, 1, 15), "received_weights": normal(rng, 2, 14, 2)}
        case = Case(arrays, mask, softcap=1.5, dropout=(0.3, 5), scale=0.7)
        found, _ = check(case, self.implementation, np.float32, rng, quick=True)
        assert np.all(found["lse"][:, :, 12:] == -np.inf)
        assert not found["nonempty"][:, :, 12:].any()

    @hypothesis.settings(max_examples=2, phases=UNSHRUNK, suppress_health_check=SHARED)
    @hypothesis.given(recipe=recipes(longest=64), seed=st.integers(0, 2**32 - 1))
    @hypothesis.example(recipe=SCORES_TWICE, seed=109021689)
    @pytest.mark.slow
    def test_any_call(self, recipe, seed):
        check(recipe.build(), self.implementation, np.float32, np.random.default_rng(seed), quick=True)

    @pytest.mark.slow
    @pytest.mark.long
    @hypothesis.settings(max_examples=16, phases=UNSHRUNK, suppress_health_check=SHARED)
    @hypothesis.given(
        recipe=recipes(longest=64),
        dtype=st.sampled_from([np.float32, ml_dtypes.bfloat16]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_any_call_often(self, recipe, dtype, seed):
        check(recipe.build(), self.implementation, dtype, np.random.default_rng(seed), quick=True)

    @pytest.mark.slow
    @pytest.mark.long
    @hypothesis.settings(max_examples=6, phases=UNSHRUNK, suppress_health_check=SHARED)
    @hypothesis.given(recipe=recipes(longest=700), seed=st.integers(0, 2**32 - 1))
    def test_any_long_call(self, recipe, seed):
        check(recipe.build(), self.implementation, np.float32, np.random.default_rng(seed), quick=True)

    @hypothesis.settings(max_examples=25, suppress_health_check=SHARED)
    @hypothesis.given(seed=st.integers(0, 2**32 - 1))
    def test_any_validity(self, seed):
        """Random validity, presence and segments on one layout: empty rows, absent modalities, empty samples."""
        rng = np.random.default_rng(seed)
        layout, batch = Layout.of(audio=5, bottleneck=2, video=6), 3
        sees = [(a, b) for a in layout.names for b in layout.names if {a, b} != {"audio", "video"}]
        mask = Mask(layout, layout, sees=sees, **validity(rng, layout, layout, batch))
        arrays = {name: normal(rng, batch, 13, 2, 4) for name in ("query", "key", "value")}
        arrays["received_weights"] = normal(rng, batch, 13, 1)
        found, gradients = check(Case(arrays, mask), self.implementation, np.float32, rng)
        empty = ~found["nonempty"]
        assert np.all(found["output"].swapaxes(1, 2)[empty] == 0)
        assert np.all(found["lse"][empty] == -np.inf)
        for name in ("mass", "entropy", "group_entropy", "second_moment", "peak", "group_output", "output_product"):
            assert np.all(found[name][empty] == 0), name
        assert np.all(gradients["query"].swapaxes(1, 2)[empty] == 0)
        unused = ~dense.visible(mask, batch).any(1)
        assert np.all(found["received"].swapaxes(1, 2)[unused] == 0)
        assert np.all(gradients["key"][unused] == 0)
        assert np.all(gradients["value"][unused] == 0)

    @pytest.mark.parametrize("name", QUICK)
    def test_shape(self, name, rng):
        case = from_spec(TABLE[name], rng, batch=2)
        check(case, self.implementation, np.float32, rng, quick=name != "odd_129")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", in_short(SLOW, ("odd_1573", "avsr_cross", "mult")))
    def test_shape_slow(self, name, rng):
        check(from_spec(TABLE[name], rng), self.implementation, np.float32, rng)

    @pytest.mark.parametrize("name", ["odd_7", pytest.param("gqa", marks=pytest.mark.slow)])
    def test_shape_bfloat16(self, name, rng):
        check(from_spec(TABLE[name], rng, batch=2), self.implementation, ml_dtypes.bfloat16, rng, quick=True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.long) if "64k" in name else name for name in LONG]
    )
    def test_shape_long(self, name, rng):
        """64 sampled rows of the output and of the row statistics, against float64."""
        if not self.long:
            pytest.skip(f"{self.implementation} needs memory for Nq x Nk arrays")
        spec = dataclasses.replace(TABLE[name], heads=1)
        arrays = {name: normal(rng, *shape) for name, shape in spec.shapes(1).items()}
        names = tuple(name for name in STATISTICS if name not in ("received", "group_output"))
        attended = jax.jit(lambda *qkv: self.attend(*qkv, mask=spec.mask(), statistics=names))(*arrays.values())
        rows = np.sort(rng.choice(spec.queries.length, 64, replace=False))
        sampled = {**arrays, "query": arrays["query"][:, rows], "received_weights": np.ones((1, 64, 1), np.float32)}
        case = Case(sampled, Mask(Layout.of(rows=64), spec.keys))
        exact, same = truth(case, np.float64, None)[0], truth(case, np.float32, None)[0]
        within_ratio("output", np.asarray(attended.output)[:, rows], same["output"], exact["output"], np.float32)
        for name in names:
            found = np.asarray(attended.statistics[name])[:, :, rows]
            within_ratio(name, found, same[name], exact[name], np.float32)

    # Known answers

    @pytest.mark.parametrize(
        "length",
        [
            7,
            pytest.param(9, marks=pytest.mark.long),
            pytest.param(128, marks=pytest.mark.long),
            pytest.param(1000, marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    def test_uniform_attention(self, length, dtype, rng):
        """query = 0: mass N_g / N, entropy log N, within groups log N_g, moment and peak 1 / N, received sum(w) / N."""
        first = length // 3
        layout = Layout.of(audio=first, video=length - first)
        key, value = (jnp.asarray(normal(rng, 2, length, 2, 8), dtype) for _ in range(2))
        weights = normal(rng, 2, length, 3)
        attended = self.attended(
            jnp.zeros_like(key), key, value, mask=Mask(layout, layout), statistics=STATISTICS, received_weights=weights
        )
        found, sizes = attended.statistics, np.array(layout.lengths)
        np.testing.assert_allclose(found["mass"], np.broadcast_to(sizes / length, (2, 2, length, 2)), rtol=2e-6)
        np.testing.assert_allclose(found["entropy"], np.full((2, 2, length), np.log(length)), rtol=2e-6)
        np.testing.assert_allclose(found["group_entropy"], np.broadcast_to(np.log(sizes), (2, 2, length, 2)), rtol=2e-6)
        np.testing.assert_allclose(found["second_moment"], np.full((2, 2, length), 1 / length), rtol=2e-6)
        np.testing.assert_allclose(found["peak"], np.full((2, 2, length), 1 / length), rtol=2e-6)
        np.testing.assert_allclose(found["lse"], np.full((2, 2, length), np.log(length)), rtol=2e-6)
        expected = np.broadcast_to(weights.sum(1)[:, None, None] / length, (2, 2, length, 3))
        np.testing.assert_allclose(found["received"], expected, rtol=1e-5, atol=1e-6)

    def test_sharp_attention(self, rng):
        """Scale to infinity: entropy 0, peak 1, mass one-hot on the group of the best key, all of it received there."""
        layout, length = Layout.of(audio=4, video=5), 9
        query = rng.choice(np.float32([-1, 1]), (1, length, 1, 1))
        key = rng.permutation(length).astype(np.float32)[None, :, None, None]
        value = normal(rng, 1, length, 1, 4)
        attended = self.attended(query, key, value, mask=Mask(layout, layout), scale=1e4, statistics=STATISTICS)
        best = (query[0, :, 0] @ key[0, :, 0].T).argmax(-1)
        found = {name: np.asarray(array)[0, 0] for name, array in attended.statistics.items()}
        tolerance = {"rtol": 1e-6, "atol": 1e-6}
        np.testing.assert_allclose(found["entropy"], np.zeros(length), **tolerance)
        np.testing.assert_allclose(found["group_entropy"], np.zeros((length, 2)), **tolerance)
        np.testing.assert_allclose(found["peak"], np.ones(length), **tolerance)
        np.testing.assert_allclose(found["second_moment"], np.ones(length), **tolerance)
        np.testing.assert_allclose(found["mass"], np.eye(2)[(best >= 4).astype(int)], **tolerance)
        np.testing.assert_allclose(found["received"][:, 0], np.bincount(best, minlength=length), **tolerance)
        np.testing.assert_allclose(np.asarray(attended.output)[0, :, 0], value[0, best, 0], **tolerance)

    def test_sums_and_chain_rule(self, rng):
        """Mass sums to 1, received to the weights, group outputs to the output, their products with it to its squared
        length; H = H(M) + sum_g M_g H_g.
        """
        spec = TABLE["odd_7"]
        arrays = {name: normal(rng, *shape) for name, shape in spec.shapes(2).items()}
        weights = normal(rng, 2, 7, 3)
        mask = spec.mask(key_valid=jnp.arange(7)[None] < jnp.array([[7], [5]]))
        attended = self.attended(
            *arrays.values(), mask=mask, statistics=STATISTICS, received_weights=weights, dropout=(0.4, 5)
        )
        found = {name: np.asarray(array) for name, array in attended.statistics.items()}
        mass = found["mass"]
        np.testing.assert_allclose(mass.sum(-1), 1, rtol=1e-6)
        between = -np.where(mass > 0, mass * np.log(np.where(mass > 0, mass, 1)), 0).sum(-1)
        np.testing.assert_allclose(found["entropy"], between + (mass * found["group_entropy"]).sum(-1), atol=2e-6)
        expected = np.broadcast_to(weights.sum(1)[:, None], (2, 2, 3))
        np.testing.assert_allclose(found["received"].sum(2), expected, atol=1e-5)
        output = np.asarray(attended.output).swapaxes(1, 2)
        np.testing.assert_allclose(found["group_output"].sum(3), output, atol=1e-6)
        np.testing.assert_allclose(found["output_product"].sum(-1), np.square(output).sum(-1), rtol=1e-5, atol=1e-6)
        assert np.all(found["peak"] ** 2 <= found["second_moment"] * (1 + 1e-6))

    def test_decoy_group(self):
        """Uniform over 5 + 5 keys, video's values 0: half the mass, none of the output; one group: all of it."""
        layout = Layout.of(audio=5, video=5)
        ones = jnp.ones((1, 10, 1, 4))
        value = ones.at[:, 5:].set(0)
        names = ("mass", "group_output", "output_product")
        output, found = self.attended(0 * ones, ones, value, mask=Mask(layout, layout), statistics=names)
        share = found["output_product"] / jnp.square(output).sum(-1)[:, None, :, 0, None]
        np.testing.assert_allclose(found["mass"], np.broadcast_to([0.5, 0.5], (1, 1, 10, 2)), rtol=1e-6)
        np.testing.assert_allclose(share, np.broadcast_to([1.0, 0.0], (1, 1, 10, 2)), atol=1e-6)
        output, found = self.attended(0 * ones, ones, value, statistics=names)
        np.testing.assert_allclose(found["mass"], np.ones((1, 1, 10, 1)), rtol=1e-6)
        np.testing.assert_allclose(found["group_output"][:, :, :, 0], output.swapaxes(1, 2), rtol=1e-6)

    def test_known_gradients(self, rng):
        """dS, seen as the gradient of a full bias: entropy at uniform 0, equal mass 0, lse exactly P."""
        layout = Layout.of(audio=3, video=6)
        query, key, value = (jnp.asarray(normal(rng, 2, 9, 2, 8)) for _ in range(3))

        @jax.jit
        def gradients(query, cotangent):
            def values(bias):
                found = self.attend(
                    query, key, value, bias=bias, mask=Mask(layout, layout), statistics=("entropy", "mass", "lse")
                ).statistics
                return found["entropy"], found["mass"], found["lse"]

            (entropy, mass, lse), pull = jax.vjp(values, jnp.zeros((2, 2, 9, 9)))
            none = (jnp.zeros_like(entropy), jnp.zeros_like(mass), jnp.zeros_like(lse))
            return (
                pull((cotangent, *none[1:]))[0],
                pull((none[0], jnp.broadcast_to(cotangent[..., None], mass.shape), none[2]))[0],
                pull((*none[:2], jnp.ones_like(lse)))[0],
            )

        cotangent = normal(rng, 2, 2, 9)
        np.testing.assert_allclose(gradients(jnp.zeros_like(query), cotangent)[0], 0, atol=1e-6)
        _, of_mass, of_lse = gradients(query, cotangent)
        np.testing.assert_allclose(of_mass, 0, atol=1e-6)
        scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(8)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(of_lse, weights, atol=1e-6)

    # What is computed, and where

    def test_only_what_is_named(self, rng):
        """Names choose what comes back, and the values do not depend on what else is named."""
        arrays = [normal(rng, 1, 7, 2, 4) for _ in range(3)]
        alone = {name: self.attended(*arrays, statistics=(name,)) for name in STATISTICS}
        together = self.attended(*arrays, statistics=STATISTICS)
        assert set(together.statistics) == {*STATISTICS, "nonempty"}
        for name, attended in alone.items():
            assert set(attended.statistics) == {name} | ({"nonempty"} if name == "lse" else set())
            np.testing.assert_allclose(attended.statistics[name], together.statistics[name], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(attended.output, together.output, rtol=1e-6, atol=1e-6)

    def test_dropout(self, rng):
        """Independent of the pairs that a layout makes; undropped statistics; a sample alone is as in its batch."""
        arrays = [normal(rng, 2, 12, 4, 4) for _ in range(3)]
        whole = Mask(Layout.of(all=12), Layout.of(all=12))
        layout = Layout.of(a=5, b=3, c=4)
        # Window 11 hides nothing; two groups of queries that see the same keys in another order of pairs.
        split = Mask(layout, layout, sees=[(a, b) for a in "abc" for b in "abc"], window=11)
        output, found = self.attended(*arrays, mask=whole, dropout=(0.5, 3), statistics=("entropy", "peak"))
        again, _ = self.attended(*arrays, mask=split, dropout=(0.5, 3))
        np.testing.assert_allclose(again, output, rtol=1e-5, atol=1e-6)
        clean, undropped = self.attended(*arrays, mask=whole, statistics=("entropy", "peak"))
        for name, array in found.items():
            np.testing.assert_allclose(array, undropped[name], rtol=1e-6)
        assert np.abs(clean - output).max() > 0.05
        assert np.abs(self.attended(*arrays, mask=whole, dropout=(0.5, 4)).output - output).max() > 0.05
        seeds = dropout_seeds(3, 2, 4)
        part = [array[1:, :, 2:] for array in arrays]
        alone, _ = self.attended(*part, dropout=(0.5, seeds[1:, 2:]))
        np.testing.assert_allclose(alone, output[1:, :, 2:], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(self.attended(*arrays, dropout=(0.0, 3)).output, self.attended(*arrays).output)

    @pytest.mark.slow
    def test_transformations(self, rng):
        """vmap, jit, remat and scan give what the plain call gives."""
        arrays = [jnp.asarray(normal(rng, 3, 2, 6, 2, 4)) for _ in range(3)]
        mask = Mask(Layout.of(a=6), Layout.of(a=6), key_valid=jnp.asarray(rng.random((2, 6)) < 0.7))

        def loss(query, key, value):
            output, found = self.attend(query, key, value, mask=mask, statistics=("mass", "entropy"))
            return jnp.sum(output**2) + jnp.sum(found["mass"] * found["entropy"][..., None])

        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2))
        plain = [gradient(*(array[i] for array in arrays)) for i in range(3)]
        plain = jax.tree.map(lambda *leaves: jnp.stack(leaves), *plain)
        remat = jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1, 2))
        versions = {
            "vmap": jax.jit(jax.vmap(gradient))(*arrays),
            "scan": jax.jit(lambda *xs: jax.lax.scan(lambda carry, x: (carry, gradient(*x)), 0, xs)[1])(*arrays),
            "remat": jax.jit(jax.vmap(remat))(*arrays),
        }
        for name, version in versions.items():
            for found, expected in zip(jax.tree.leaves(version), jax.tree.leaves(plain), strict=True):
                np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6, err_msg=name)

    @pytest.mark.slow
    def test_sharded_equals_unsharded(self, rng):
        """Data and heads over 4 x 2 devices, a replicated bias, dropout: outputs, statistics and gradients."""
        if jax.device_count() < 8:
            pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
        mesh = jax.make_mesh((4, 2), ("data", "tensor"), (jax.sharding.AxisType.Auto,) * 2)
        layout = Layout.of(audio=4, video=5)
        arrays = {name: normal(rng, 8, 9, 4, 8) for name in ("query", "key", "value")}
        arrays |= {"bias": normal(rng, 1, 4, 9, 9), "received_weights": normal(rng, 8, 9, 1)}
        mask = Mask(
            layout,
            layout,
            key_valid=jnp.asarray(rng.random((8, 9)) < 0.7),
            presence=jnp.asarray(rng.random((8, 2)) < 0.7),
        )
        seeds = dropout_seeds(11, 8, 4)

        def call(arrays, mask, seeds):
            attended = self.attend(
                arrays["query"], arrays["key"], arrays["value"], bias=arrays["bias"], mask=mask,
                received_weights=arrays["received_weights"], statistics=STATISTICS, dropout=(0.2, seeds),
            )  # fmt: skip
            values = {"output": attended.output, **attended.statistics}
            del values["nonempty"]
            return values

        tokens, rows = P("data", None, "tensor"), P("data", "tensor")
        specs = dict.fromkeys(("query", "key", "value"), tokens)
        specs |= {"bias": P(None, "tensor"), "received_weights": P("data")}
        shapes = jax.eval_shape(call, arrays, mask, seeds)
        sharded = jax.shard_map(
            call, mesh=mesh, in_specs=(specs, P("data"), rows),
            out_specs=dict.fromkeys(shapes, rows) | {"output": tokens}, check_vma=False,
        )  # fmt: skip
        values = call(arrays, mask, seeds)
        cotangents = {
            name: np.where(np.isfinite(value), normal(rng, *value.shape), 0) for name, value in values.items()
        }

        def both(function):
            def run(arrays):
                values, pull = jax.vjp(lambda arrays: function(arrays, mask, seeds), arrays)
                return values, pull(jax.tree.map(jnp.asarray, cotangents))[0]

            return jax.jit(run, compiler_options=QUICK_TO_COMPILE)(arrays)

        for found, expected in zip(jax.tree.leaves(both(sharded)), jax.tree.leaves(both(call)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
