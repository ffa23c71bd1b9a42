"""Fusions of vectors against NumPy in float64, for every pattern of missing modalities."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion import bilinear, vectors
from tests.nn.randomised import Randomised, as_bfloat16, assert_named

NAMES, WIDTHS, OUTPUTS = ("video", "audio"), (3, 5), 4
ONE = np.ones(1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def normalised(z):
    rooted = np.sign(z) * np.sqrt(np.abs(z))
    return rooted / np.linalg.norm(rooted)


# Each reference takes one example: vectors in order, None where missing, not all of them.
def concatenation(p, x):
    return dense(
        np.concatenate([np.zeros(c) if v is None else v for v, c in zip(x, WIDTHS, strict=False)]), p["project"]
    )


def mean(p, x):
    return np.mean([dense(v, q) for v, q in zip(x, p["project"].values(), strict=True) if v is not None], 0)


def total(p, x):
    return np.sum([dense(v, q) for v, q in zip(x, p["project"].values(), strict=True) if v is not None], 0)


def gated(p, x):
    gate = np.ones(OUTPUTS) if x[0] is None else sigmoid(dense(x[0], p["gate"]))
    return dense(gate * (np.ones(OUTPUTS) if x[1] is None else dense(x[1], p["value"])), p["project"])


def film(p, x):
    gamma, beta = np.split(np.zeros(10) if x[0] is None else dense(x[0], p["film"]["modulate"]), 2)
    return dense((1 + gamma) * (np.zeros(5) if x[1] is None else x[1]) + beta, p["project"])


def mmtm(p, x):
    x = [np.zeros(c) if v is None else v for v, c in zip(x, WIDTHS, strict=True)]
    shared = np.maximum(dense(np.concatenate(x), p["mmtm"]["squeeze"]), 0)
    gated = [2 * sigmoid(dense(shared, q)) * v for v, q in zip(x, p["mmtm"]["excite"].values(), strict=True)]
    return dense(np.concatenate(gated), p["project"])


def factorised(p, x):
    kernels = [q["kernel"].reshape(c, OUTPUTS, 2) for q, c in zip(p["project"].values(), WIDTHS, strict=True)]
    z = np.zeros(OUTPUTS)
    for output, factor in itertools.product(range(OUTPUTS), range(2)):
        z[output] += np.prod([v @ k[:, output, factor] for v, k in zip(x, kernels, strict=True) if v is not None])
    return normalised(z)


def adaptive(p, x):
    there = [i for i in range(2) if x[i] is not None]
    score = {i: sigmoid(dense(x[i], p["score"][i]))[0] for i in there}
    product = np.prod(
        [dense(x[i] * score[i] / sum(score.values()) * len(there), p["project"][i]) for i in there], axis=0
    )
    return normalised(product.reshape(OUTPUTS, 2).sum(1))


def outer(x):
    """[x_1; 1] ⊗ [x_2; 1] as a matrix."""
    first, second = (np.append(np.zeros(c) if v is None else v, 1) for v, c in zip(x, WIDTHS, strict=True))
    return np.outer(first, second)


def low_rank(p, x):
    tensor = np.einsum("rao,rbo->abo", p["factors"][0], p["factors"][1])
    return np.einsum("ab,abo->o", outer(x), tensor) + p["bias"]


def tensor(p, x):
    return dense(outer(x).ravel(), p["project"])


CASES = {
    "concatenation": (vectors.Concatenation, {}, concatenation),
    "sum": (vectors.Sum, {}, total),
    "mean": (vectors.Mean, {}, mean),
    "gated": (vectors.GatedFusion, {}, gated),
    "film": (vectors.FiLMFusion, {}, film),
    "mmtm": (vectors.MMTMFusion, {"ratio": 2}, mmtm),
    "factorised": (bilinear.FactorisedBilinear, {"factors": 2}, factorised),
    "adaptive": (bilinear.AdaptiveBilinear, {"factors": 2}, adaptive),
    "low rank": (bilinear.LowRankFusion, {"rank": 3}, low_rank),
    "tensor": (bilinear.TensorFusion, {}, tensor),
    "compact": (bilinear.CompactBilinear, {}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_fusion_equals_the_equation(rng, name):
    kind, options, reference = CASES[name]
    block = kind(NAMES, WIDTHS, OUTPUTS, **options, rngs=nnx.Rngs(0))
    assert_named(block)
    assert block.outputs == OUTPUTS
    forward = Randomised(block, rng)
    # Batch axes of any number: four examples as [2, 2], one for each pattern of what is present.
    patterns = np.array(list(itertools.product([True, False], repeat=2)))
    clean = [rng.normal(size=(4, width)).astype(np.float32) for width in WIDTHS]
    dirty = [
        np.where(there[:, None], x, bad) for x, there, bad in zip(clean, patterns.T, (np.nan, np.inf), strict=True)
    ]
    given = {m: jnp.asarray(x.reshape(2, 2, -1)) for m, x in zip(NAMES, dirty, strict=True)}
    present = {m: jnp.asarray(there.reshape(2, 2)) for m, there in zip(NAMES, patterns.T, strict=True)}
    got = np.asarray(forward(given, present)).reshape(4, OUTPUTS)
    assert (got[3] == 0).all()
    if reference is None:
        reference = compact(block)
    for row in range(3):
        x = [v[row].astype(float) if there else None for v, there in zip(clean, patterns[row], strict=True)]
        # The square root of the bilinear forms makes an error e near 0 one of sqrt(e).
        tolerance = 2e-3 if kind.__module__.endswith("bilinear") and name not in ("tensor", "low rank") else 5e-5
        np.testing.assert_allclose(got[row], reference(forward.weights, x), atol=tolerance, err_msg=str(patterns[row]))
    forward.assert_finite(given, present)
    half = {m: x.astype(jnp.bfloat16) for m, x in given.items()}
    assert forward.compiled(as_bfloat16(forward.params), half, present).dtype == jnp.bfloat16


def compact(block):
    """The count sketch of the outer product, entry by entry."""
    places = [np.asarray(h[...]) for h in block.places]
    signs = [np.asarray(s[...], np.float64) for s in block.signs]

    def reference(_, x):
        z = np.zeros(OUTPUTS)
        there = [i for i in range(2) if x[i] is not None]
        for entry in itertools.product(*(range(WIDTHS[i]) for i in there)):
            at = sum(places[i][c] for i, c in zip(there, entry, strict=True)) % OUTPUTS
            z[at] += np.prod([signs[i][c] * x[i][c] for i, c in zip(there, entry, strict=True)])
        return normalised(z)

    return reference


def test_bare_concatenation_keeps_the_order_of_the_modalities():
    block = vectors.Concatenation(("video", "audio"), (1, 2), rngs=nnx.Rngs(0))
    found = block({"audio": jnp.array([[1.0, 2.0]]), "video": jnp.array([[3.0]])})
    np.testing.assert_array_equal(found, [[3, 1, 2]])
    assert block.outputs == 3


def test_three_modalities_meet_in_one_tensor(rng):
    names, widths = ("a", "b", "c"), (2, 3, 2)
    x = {m: rng.normal(size=(2, width)).astype(np.float32) for m, width in zip(names, widths, strict=True)}
    padded = [np.concatenate([v, np.ones((2, 1))], 1).astype(float) for v in x.values()]
    low = Randomised(bilinear.LowRankFusion(names, widths, 3, rank=2, rngs=nnx.Rngs(0)), rng)
    tensor = np.einsum("rao,rbo,rco->abco", *(low.weights["factors"][i] for i in range(3)))
    want = np.einsum("na,nb,nc,abco->no", *padded, tensor) + low.weights["bias"]
    given = {m: jnp.asarray(v) for m, v in x.items()}
    np.testing.assert_allclose(low(given), want, rtol=1e-4, atol=1e-4)
    whole = Randomised(bilinear.TensorFusion(names, widths, 3, rngs=nnx.Rngs(0)), rng)
    product = np.einsum("na,nb,nc->nabc", *padded).reshape(2, -1)
    np.testing.assert_allclose(whole(given), dense(product, whole.weights["project"]), rtol=1e-4, atol=1e-4)


def test_power_norm():
    z = jnp.array([-4.0, -1e-6, 0.0, 1e-6, 9.0])
    np.testing.assert_allclose(bilinear.power_norm(z), [-2, -1e-3, 0, 1e-3, 3], rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda z: bilinear.power_norm(z[None])[0]))(z)
    # 1 / (2 sqrt|z|), and at 0 the slope of the straight line.
    np.testing.assert_allclose(slope, [0.25, 500, 1e6, 500, 1 / 6], rtol=1e-5)


def test_gradient_of_the_factorised_bilinear(rng):
    forward = Randomised(bilinear.FactorisedBilinear(NAMES, WIDTHS, OUTPUTS, factors=2, rngs=nnx.Rngs(0)), rng)

    def value(first, second):
        return np.sin(factorised(forward.weights, [first, second]) + 0.3).sum()

    def smallest(x):
        forms = np.prod([v @ forward.weights["project"][i]["kernel"] for i, v in enumerate(x)], 0)
        return np.abs(forms.reshape(OUTPUTS, 2).sum(1)).min()

    # Away from 0, where the root has a tangent of any steepness.
    x = next(x for x in iter(lambda: [rng.normal(size=width) for width in WIDTHS], None) if smallest(x) > 0.1)
    x = [v.astype(np.float32).astype(float) for v in x]
    given = {m: jnp.asarray(v[None], jnp.float32) for m, v in zip(NAMES, x, strict=True)}
    _, (found,) = forward.gradients((forward.params, (given,)))
    for i, m in enumerate(NAMES):
        want = np.zeros(WIDTHS[i])
        for c in range(WIDTHS[i]):
            step = [np.zeros(width) for width in WIDTHS]
            step[i][c] = 1e-5
            up, down = (value(*(v + sign * s for v, s in zip(x, step, strict=True))) for sign in (1, -1))
            want[c] = (up - down) / 2e-5
        np.testing.assert_allclose(found[m][0], want, rtol=1e-3, atol=1e-4)


def test_dropout_is_of_the_product_and_off_when_deterministic(rng):
    block = bilinear.FactorisedBilinear(NAMES, WIDTHS, 50, dropout=0.5, rngs=nnx.Rngs(0, dropout=1))
    given = {m: jnp.asarray(rng.normal(size=(2, width)), jnp.float32) for m, width in zip(NAMES, WIDTHS, strict=True)}
    assert (np.asarray(block(given)) != np.asarray(block(given))).any()
    still = nnx.view(block, deterministic=True)
    np.testing.assert_array_equal(still(given), still(given))


def test_adaptive_weights_share_the_number_of_those_present(rng):
    block = bilinear.AdaptiveBilinear(NAMES, WIDTHS, OUTPUTS, rngs=nnx.Rngs(0))
    given = [jnp.asarray(rng.normal(size=(3, width)), jnp.float32) for width in WIDTHS]
    there = [jnp.array([[True], [True], [False]]), jnp.array([[True], [False], [False]])]
    weights = np.asarray(block.weights(given, there))
    np.testing.assert_allclose(weights.sum(1), [2, 1, 0], rtol=1e-6)
    assert weights[1, 1] == 0


def test_multi_level(rng):
    whole = vectors.Sum(NAMES, WIDTHS, 4, rngs=nnx.Rngs(0))
    trunk = vectors.Concatenation(NAMES, WIDTHS, rngs=nnx.Rngs(1))
    block = bilinear.MultiLevelFusion(whole, trunk)
    assert block.outputs == 12
    x = {m: jnp.asarray(rng.normal(size=(2, width)), jnp.float32) for m, width in zip(NAMES, WIDTHS, strict=True)}
    local = {m: rng.normal(size=(2, 3, width)).astype(np.float32) for m, width in zip(NAMES, WIDTHS, strict=True)}
    there = {"video": np.array([[1, 1, 0], [0, 0, 0]], bool), "audio": np.array([[1, 0, 0], [0, 0, 0]], bool)}
    dirty = {m: jnp.asarray(np.where(there[m][..., None], local[m], np.nan)) for m in NAMES}
    got = block(x, dirty, None, {m: jnp.asarray(there[m]) for m in NAMES})
    np.testing.assert_allclose(got[:, :4], whole(x), rtol=1e-5, atol=1e-6)
    first = np.concatenate([local["video"][0, :2].mean(0), local["audio"][0, 0] / 2])
    np.testing.assert_allclose(got[0, 4:], first, rtol=1e-5, atol=1e-6)
    assert (np.asarray(got[1, 4:]) == 0).all()


def test_film_modulates_a_map(rng):
    film = Randomised(vectors.FiLM(3, 2, rngs=nnx.Rngs(0)), rng)
    x, condition = rng.normal(size=(2, 4, 5, 2)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    condition[1] = np.nan
    got = film(jnp.asarray(x), jnp.asarray(condition), jnp.array([True, False]))
    gamma, beta = np.split(dense(condition[0].astype(float), film.weights["modulate"]), 2)
    np.testing.assert_allclose(got[0], (1 + gamma) * x[0] + beta, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[1], x[1])


def test_mmtm_squeezes_maps_of_different_shapes(rng):
    block = vectors.MMTM(NAMES, WIDTHS, ratio=2, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x = {"video": rng.normal(size=(3, 2, 4, 3)), "audio": rng.normal(size=(3, 6, 5))}
    valid = {m: rng.random(v.shape[:-1]) < 0.7 for m, v in x.items()}
    valid["audio"][1] = False
    w = forward.weights
    want = {m: np.zeros(v.shape) for m, v in x.items()}
    for row in range(3):
        there = [x[m][row][valid[m][row]] for m in NAMES]
        squeezed = [t.mean(0) if len(t) else np.zeros(t.shape[1]) for t in there]
        shared = np.maximum(dense(np.concatenate(squeezed), w["squeeze"]), 0)
        for i, m in enumerate(NAMES):
            want[m][row][valid[m][row]] = there[i] * 2 * sigmoid(dense(shared, w["excite"][i]))
    args = (
        {m: jnp.asarray(np.where(valid[m][..., None], v, np.nan), jnp.float32) for m, v in x.items()},
        {m: jnp.asarray(v) for m, v in valid.items()},
    )
    got = forward(*args)
    for m in NAMES:
        np.testing.assert_allclose(got[m], want[m], rtol=1e-4, atol=1e-5)
    forward.assert_finite(*args)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 widths for the modalities"):
        vectors.Sum(("audio",), (2, 3), 4, rngs=nnx.Rngs(0))
    for kind in (vectors.GatedFusion, vectors.FiLMFusion):
        with pytest.raises(ValueError, match="is of two modalities"):
            kind(("a", "b", "c"), (2, 2, 2), 4, rngs=nnx.Rngs(0))
