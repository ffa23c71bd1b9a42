"""The dense reference: the shared contract, and what only it can do."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import STATISTICS, Layout, Mask, attention
from tests.kernels.attention.cases import Case, truth
from tests.kernels.attention.contract import SLOW, AttentionContract, normal


class TestReference(AttentionContract):
    implementation = "reference"
    long = False

    @pytest.mark.long
    @pytest.mark.parametrize("name", SLOW)
    def test_shape_slow(self, name, rng):
        super().test_shape_slow(name, rng)


@pytest.fixture
def double():
    with jax.enable_x64(True), jax.debug_nans(True):
        yield


def masked_case(rng: np.random.Generator) -> Case:
    layout = Layout.of(audio=3, video=3)
    mask = Mask(layout, layout, key_valid=np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool), causal=True)
    arrays = {name: rng.normal(size=(2, 6, 2, 3)) for name in ("query", "key", "value")}
    return Case({**arrays, "received_weights": rng.normal(size=(2, 6, 2)), "bias": rng.normal(size=(2, 1, 6, 6))}, mask)


def call(case: Case, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    attended = attention(
        arrays["query"], arrays["key"], arrays["value"], bias=arrays["bias"], mask=jax.tree.map(jnp.asarray, case.mask),
        statistics=STATISTICS, received_weights=arrays["received_weights"], implementation="reference",
    )  # fmt: skip
    values = {"output": attended.output, **attended.statistics}
    lse, nonempty = values.pop("lse"), values.pop("nonempty")
    return {**values, "lse": jnp.where(nonempty, lse, 0)}


def test_float64_is_float64(double, rng):
    case = masked_case(rng)
    found = jax.jit(functools.partial(call, case))(case.arrays)
    expected, _, _ = truth(case, np.float64, None)
    expected["lse"] = np.where(expected["nonempty"], expected["lse"], 0)
    for name, array in found.items():
        assert array.dtype == jnp.float64, name
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.slow
def test_forward_and_second_derivatives(double, rng):
    """Against the formulas of the NumPy gradient: forward mode directly, second order by differencing it."""
    case = masked_case(rng)
    values, _, _ = truth(case, np.float64, None)
    cotangents = {name: rng.normal(size=value.shape) for name, value in values.items() if name != "nonempty"}
    cotangents["lse"] = np.where(values["nonempty"], cotangents["lse"], 0)

    def loss(arrays):
        return sum(jnp.sum(value * cotangents[name]) for name, value in call(case, arrays).items())

    def exact_gradient(arrays):
        return truth(Case(arrays, case.mask), np.float64, cotangents)[1]

    direction = jax.tree.map(lambda array: rng.normal(size=array.shape), case.arrays)
    gradient = exact_gradient(case.arrays)
    _, tangent = jax.jit(lambda x, d: jax.jvp(loss, (x,), (d,)))(case.arrays, direction)
    np.testing.assert_allclose(tangent, sum(np.sum(gradient[n] * direction[n]) for n in gradient), rtol=1e-10)

    _, hessian = jax.jit(lambda x, d: jax.jvp(jax.grad(loss), (x,), (d,)))(case.arrays, direction)
    step = 1e-5
    ahead, behind = (
        exact_gradient({name: array + sign * step * direction[name] for name, array in case.arrays.items()})
        for sign in (1, -1)
    )
    for name, found in hessian.items():
        np.testing.assert_allclose(found, (ahead[name] - behind[name]) / (2 * step), rtol=1e-5, atol=1e-6, err_msg=name)


def test_group_entropy_where_the_mass_underflows():
    """A group 200 nats below the other has mass 0 in float32, but what it has is still spread evenly."""
    layout = Layout.of(audio=4, video=4)
    zeros = jnp.zeros((1, 8, 1, 2))
    bias = jnp.where(jnp.arange(8) < 4, -200.0, 0.0)[None, None, None]
    found = attention(
        zeros, zeros, zeros, bias=bias, mask=Mask(layout, layout), statistics=("mass", "group_entropy"),
        implementation="reference",
    ).statistics  # fmt: skip
    np.testing.assert_array_equal(found["mass"][..., 0], 0)
    np.testing.assert_allclose(found["group_entropy"], np.full((1, 1, 8, 2), np.log(4)), rtol=1e-6)


def test_pairs_never_seen_are_never_multiplied(rng):
    """Bottleneck fusion of a + b tokens costs a^2 + b^2, not (a + b)^2."""
    layout = Layout.of(audio=20, bottleneck_audio=4, bottleneck_video=4, video=60)
    sides = (("audio", "bottleneck_audio"), ("bottleneck_video", "video"))
    sees = [(query, key) for side in sides for query in side for key in side]
    arrays = [normal(rng, 1, 88, 1, 8) for _ in range(3)]

    def flops(mask):
        lowered = jax.jit(lambda *qkv: attention(*qkv, mask=mask, implementation="reference").output).lower(*arrays)
        text = lowered.as_text()
        assert "88x88" not in text or mask.sees is None
        return lowered.compile().cost_analysis()["flops"]

    assert flops(Mask(layout, layout, sees=sees)) < 0.7 * flops(Mask(layout, layout))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_inputs_add_up_in_float32(dtype):
    """4096 equal keys: a bfloat16 sum of 1 + 1 + ... would stop at 256."""
    zeros = jnp.zeros((1, 4096, 1, 8), dtype)
    output, found = attention(zeros[:, :1], zeros, zeros + 1, statistics=("lse",), implementation="reference")
    assert output.dtype == dtype
    assert found["lse"].dtype == jnp.float32
    np.testing.assert_allclose(found["lse"], np.log(4096), rtol=1e-6)
    np.testing.assert_array_equal(output.astype(jnp.float32), 1)


def test_bias_gradient_is_summed_in_float32(rng):
    """A bfloat16 bias shared by 512 queries: its gradient is the float32 sum, rounded once."""
    query, key, value = (jnp.asarray(normal(rng, 1, 512, 1, 4)) for _ in range(3))

    def gradient(bias):
        return jax.grad(lambda bias: attention(query, key, value, bias=bias).output[..., 0].sum())(bias)

    exact = gradient(jnp.zeros((1, 1, 1, 512), jnp.float32))
    found = gradient(jnp.zeros((1, 1, 1, 512), jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), exact.astype(jnp.bfloat16).astype(jnp.float32))
