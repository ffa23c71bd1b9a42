"""Joint attention in float64, one example at a time; a segment that is not valid is a row of zeros."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion.joint import JointCrossAttention, RecursiveJointAttention
from avjax.nn.stack import Stack
from tests.models import reference
from tests.nn.fusion.streams import check_bfloat16, check_parameters, relu, run, stream

LENGTH = 5
WIDTHS = {"audio": 3, "video": 4, "text": 2}


def tokens(rng):
    """Row 1 without sound, row 2 with sound alone."""
    missing = {"audio": (1,), "video": (2,), "text": (2,)}
    return {m: stream(rng, 3, LENGTH, width, missing=missing[m]) for m, width in WIDTHS.items()}


def zeroed(given, row):
    """[L, d_m] with zeros where nothing is."""
    return {m: np.where(s.valid[row][:, None], np.asarray(s.values[row], np.float64), 0) for m, s in given.items()}


def correlation(x, weights, joint):
    """tanh(X^T W J / sqrt(d)) term by term."""
    c = np.zeros((x.shape[1], joint.shape[1]))
    for i in range(x.shape[1]):
        for j in range(joint.shape[1]):
            total = sum(x[s, i] * weights[s, t] * joint[t, j] for s in range(LENGTH) for t in range(LENGTH))
            c[i, j] = np.tanh(total / np.sqrt(joint.shape[1]))
    return c


def compare(fused, given, row, wanted):
    for m, want in wanted.items():
        valid = np.asarray(given[m].valid)[row]
        want = np.where(valid[:, None], want, 0)
        np.testing.assert_allclose(np.asarray(fused[m].values)[row], want, rtol=1e-4, atol=1e-4, err_msg=f"{row} {m}")


def test_joint_cross_attention(rng):
    given = tokens(rng)
    p, (fused, _) = run(JointCrossAttention(WIDTHS, LENGTH, hidden=6, rngs=nnx.Rngs(0)), rng, given)
    for row in range(3):
        x = zeroed(given, row)
        # Without a modality there is neither its part of J nor its columns of W_c.
        there = {m for m in x if np.asarray(given[m].valid)[row].any()}
        columns = np.concatenate([np.full(width, m in there) for m, width in WIDTHS.items()])
        joint = np.concatenate([x[m] for m in WIDTHS], 1)
        wanted = {}
        for m in there:
            c = correlation(x[m], p["joint"][m], joint)[:, columns]
            h = relu(p["own"][m] @ x[m] + p["correlation"][m][:, columns] @ c.T)
            wanted[m] = p["out"][m] @ h + x[m]
        compare(fused, given, row, wanted)


def recursion(x, valid, p):
    anything = np.any([valid[m] for m in WIDTHS], 0)
    joint = np.concatenate([x[m] for m in WIDTHS], 1)
    query = np.array([reference.dense(joint[t], p["query"]) if anything[t] else 0 * joint[t] for t in range(LENGTH)])
    result = {}
    for m in WIDTHS:
        s = correlation(x[m], p["key"][m], query)
        u = relu(np.tanh(reference.dense(x[m], p["value"][m]) @ s))
        result[m] = np.where(valid[m][:, None], x[m] + relu(reference.dense(u, p["out"][m])), 0)
    return result


@pytest.mark.slow
def test_recursive_joint_attention(rng):
    given = tokens(rng)
    layers = [RecursiveJointAttention(WIDTHS, LENGTH, rngs=nnx.Rngs(i)) for i in range(2)]
    p, (fused, _) = run(Stack("joint", layers), rng, given, scale=0.3)
    for row in range(3):
        x = zeroed(given, row)
        valid = {m: np.asarray(s.valid)[row] for m, s in given.items()}
        for layer in range(2):
            x = recursion(x, valid, p[layer])
        compare(fused, given, row, x)


@pytest.mark.slow
def test_recursions_scan(rng):
    stack = Stack("joint", [RecursiveJointAttention(WIDTHS, LENGTH, rngs=nnx.Rngs(i)) for i in range(3)])
    given = tokens(rng)
    one, other = stack(given)[0], nnx.view(stack, scan=True)(given)[0]
    for m in WIDTHS:
        np.testing.assert_allclose(other[m].values, one[m].values, rtol=1e-5, atol=1e-5)
        assert jnp.isfinite(one[m].values).all()


@pytest.mark.parametrize("layer", [JointCrossAttention, RecursiveJointAttention])
@pytest.mark.slow
def test_narrow_numbers_and_axes(layer, rng):
    made = layer(WIDTHS, LENGTH, rngs=nnx.Rngs(0))
    check_parameters(made)
    check_bfloat16(made, tokens(rng))
