"""Information and its decomposition: known gates, every table's proof, brute force over small ones; k-means."""

from __future__ import annotations

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.contribution.information import (
    GAP,
    Decomposition,
    clusters,
    decompose,
    information,
    least_informative,
    null,
    table,
)
from avjax.diagnostics.measured import Undefined

BITS = GAP / math.log(2)
seeds = st.integers(0, 2**32 - 1)


def gate(function) -> np.ndarray:
    joint = np.zeros((2, 2, 2))
    for one, other in itertools.product(range(2), repeat=2):
        joint[one, other, function(one, other)] = 0.25
    return joint


def entropy(p) -> float:
    p = np.asarray(p, np.float64).ravel()
    return float(-sum(x * math.log2(x) for x in p if x > 0))


def random_table(rng, *, largest: int = 6) -> np.ndarray:
    """Dense, peaked, sparse, of few counts, of a rule, or of next to no mass in some cells."""
    shape = tuple(int(size) for size in rng.integers(2, largest + 1, 3))
    kind = rng.integers(6)
    if kind == 3:
        counts = rng.multinomial(rng.integers(5, 200), rng.dirichlet(np.full(np.prod(shape), 0.3)))
        return counts.reshape(shape) / counts.sum()
    if kind == 4:
        one, other = rng.integers(0, shape[0], 60), rng.integers(0, shape[1], 60)
        return table(one, other, (one + other) % shape[2])
    found = rng.random(shape)
    if kind == 1:
        found **= 6
    if kind == 2:
        found *= rng.random(shape) < 0.4
    if kind == 5:
        found = np.zeros(shape)
        for k in range(shape[2]):
            found[rng.integers(shape[0]), rng.integers(shape[1]), k] += 1
            found[rng.integers(shape[0]), rng.integers(shape[1]), k] += 1e-6
    found.flat[0] += 1e-3
    return found / found.sum()


@pytest.mark.parametrize(
    ("joint", "expected"),
    [
        (gate(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (np.array([[[0.5, 0], [0, 0]], [[0, 0], [0, 0.5]]]), (1, 0, 0, 0)),
        (gate(lambda a, b: a), (0, 1, 0, 0)),
        (gate(lambda a, b: b), (0, 0, 1, 0)),
        # I(X1;Y) = h(1/4) - h(1/2)/2 = 0.811278 - 0.5, and q* has no more than either alone.
        (gate(lambda a, b: a & b), (entropy([0.25, 0.75]) - 0.5, 0, 0, 0.5)),
        (gate(lambda a, b: a | b), (entropy([0.25, 0.75]) - 0.5, 0, 0, 0.5)),
    ],
)
def test_known_gates(joint, expected):
    found = decompose(joint)
    np.testing.assert_allclose(found.parts, expected, atol=2 * BITS)
    assert 0 <= found.error <= BITS


def test_and_has_the_published_values():
    found = decompose(gate(lambda a, b: a & b))
    assert (round(found.redundant, 4), round(found.synergy, 4)) == (0.3113, 0.5)
    nats = found.parts * math.log(2)
    assert (round(nats[0], 4), round(nats[3], 4)) == (0.2158, 0.3466)


@hypothesis.given(seed=seeds)
def test_every_table_is_solved_with_its_proof(seed):
    joint = random_table(np.random.default_rng(seed))
    q, gap = least_informative(joint)
    assert gap < GAP
    # What margins are off by is in the proof, at prices that are logarithms.
    np.testing.assert_allclose(q.sum(axis=1), joint.sum(axis=1), rtol=0, atol=GAP)
    np.testing.assert_allclose(q.sum(axis=0), joint.sum(axis=0), rtol=0, atol=GAP)
    assert (q >= 0).all()

    found = decompose(joint)
    one, other = entropy_information(joint.sum(axis=1)), entropy_information(joint.sum(axis=0))
    whole = entropy_information(joint.reshape(-1, joint.shape[2]))
    # Identities, up to what is cut off at 0.
    assert found.redundant + found.first == pytest.approx(one, abs=3 * BITS)
    assert found.redundant + found.second == pytest.approx(other, abs=3 * BITS)
    assert found.total == pytest.approx(whole, abs=5 * BITS)
    assert (found.parts >= 0).all()


def entropy_information(joint) -> float:
    """I = H(X) + H(Y) - H(X,Y), by loops."""
    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)


def test_information_is_that_of_entropies(rng):
    for _ in range(20):
        joint = random_table(rng).sum(axis=0)
        assert information(joint) == pytest.approx(entropy_information(joint), abs=1e-12)
    assert information(np.outer([0.3, 0.7], [0.2, 0.8])) == pytest.approx(0, abs=1e-15)
    assert information(np.eye(4, dtype=int)) == 2


@pytest.mark.parametrize("sparse", [False, True])
def test_no_point_of_a_fine_grid_is_lower(rng, sparse):
    """2 x 2 x 2: q = p + a_y [[1, -1], [-1, 1]] for each y, two numbers; refined around the least seen."""
    turn = np.array([[1.0, -1.0], [-1.0, 1.0]])
    for _ in range(3):
        joint = rng.random((2, 2, 2)) * (rng.random((2, 2, 2)) < (0.7 if sparse else 1))
        joint[0, 0, 0] += 0.1
        joint /= joint.sum()
        low = [float(max(-(joint[:, :, y] * (turn > 0))[turn > 0].min(), -1)) for y in range(2)]
        high = [float(joint[:, :, y][turn < 0].min()) for y in range(2)]
        best = math.inf
        for _ in range(12):
            points = [np.linspace(low[y], high[y], 9) for y in range(2)]
            values = [
                (information_of(joint + np.stack([a * turn, b * turn], axis=2)), a, b)
                for a, b in itertools.product(*points)
            ]
            least, *at = min(values)
            best = min(best, least)
            width = [(high[y] - low[y]) / 4 for y in range(2)]
            low = [max(low[y], at[y] - width[y]) for y in range(2)]
            high = [min(high[y], at[y] + width[y]) for y in range(2)]
        found = information_of(least_informative(joint).q)
        # The solver is within its proof; the grid, of a convex function, within its last spacing, 1e-4 of the first.
        assert found <= best + BITS
        assert best <= found + 1e-3


def information_of(q) -> float:
    return information(np.maximum(q, 0).reshape(-1, q.shape[2]))


def test_no_feasible_direction_leads_down(rng):
    """Random moves that keep the margins, from q* inward: none is lower than the proof allows."""
    for _ in range(5):
        joint = random_table(rng, largest=4)
        q, gap = least_informative(joint)
        here = information_of(q)
        support = (joint.sum(axis=1)[:, None] * joint.sum(axis=0)[None]) > 0
        for _ in range(5):
            other = rng.random(q.shape) * support
            for _ in range(500):
                for axis in (1, 0):
                    sums, wanted = other.sum(axis=axis, keepdims=True), joint.sum(axis=axis, keepdims=True)
                    other = other * np.divide(wanted, sums, out=np.zeros_like(sums), where=sums > 0)
                if np.abs(other.sum(axis=1) - joint.sum(axis=1)).max() < 1e-13:
                    break
            for step in (1e-6, 1e-3, 1.0):
                assert information_of((1 - step) * q + step * other) >= here - gap / math.log(2) - 1e-11


def test_order_and_names_do_not_matter(rng):
    for _ in range(5):
        joint = random_table(rng)
        found, turned = decompose(joint), decompose(joint.swapaxes(0, 1))
        np.testing.assert_allclose(turned.parts, found.parts[[0, 2, 1, 3]], atol=3 * BITS)
        shuffled = joint[rng.permutation(joint.shape[0])][:, rng.permutation(joint.shape[1])]
        np.testing.assert_allclose(decompose(shuffled).parts, found.parts, atol=3 * BITS)
        np.testing.assert_allclose(decompose(joint * 977).parts, found.parts, atol=3 * BITS)


def test_a_table_of_symbols(rng):
    one, other, third = (rng.integers(0, size, 50) for size in (3, 4, 2))
    found = table(one, other, third)
    for x, y, k in itertools.product(range(3), range(4), range(2)):
        assert found[x, y, k] == ((one == x) & (other == y) & (third == k)).sum() / 50
    with pytest.raises(Undefined, match="no rows"):
        table(one[:0], other[:0], third[:0])
    with pytest.raises(Undefined, match="without probability"):
        decompose(np.zeros((2, 2, 2)))


def test_what_cannot_be_proved_has_no_value(monkeypatch):
    monkeypatch.setattr("avjax.diagnostics.contribution.information.MOST_STEPS", 3)
    with pytest.raises(Undefined, match="not converged in 3 steps"):
        decompose(gate(lambda a, b: a & b))


def test_a_null_shows_nothing_of_something(rng):
    label = rng.integers(0, 3, 400)
    one, other = label, rng.integers(0, 3, 400)
    found = decompose(table(one, other, label))
    chance = null(one, other, label, permutations=5, seed=1)
    assert found.first > 1.4
    # Of permuted labels: some (X - 1)(K - 1) / (2 N ln 2) bits a part, 0.007; five times that at most.
    assert chance.parts.max() < 0.05
    above = found - chance
    np.testing.assert_allclose(above.parts, found.parts - chance.parts, rtol=1e-15)
    assert above.error == found.error + chance.error
    assert null(one, other, label, permutations=5, seed=1) == chance
    with pytest.raises(ValueError, match="needs a permutation"):
        null(one, other, label, permutations=0, seed=1)
    assert isinstance(above, Decomposition)


def test_clusters_that_are_there_are_found(rng):
    centres = rng.normal(0, 100, (5, 3))
    true = rng.integers(0, 5, 200)
    found = clusters(centres[true] + rng.normal(size=(200, 3)) + 1e6, 5, seed=3)
    assert information(table(true, np.zeros(200, int), found)[:, 0]) == pytest.approx(entropy(np.bincount(true) / 200))
    np.testing.assert_array_equal(clusters(centres[true], 5, seed=3), clusters(centres[true], 5, seed=3))


def test_clusters_are_a_fixed_point(rng):
    rows = rng.normal(size=(60, 4))
    found = clusters(rows, 7)
    assert set(found) == set(range(7))
    means = np.stack([rows[found == k].mean(axis=0) for k in range(7)])
    for row, own in zip(rows, found, strict=True):
        distance = [math.dist(row, mean) for mean in means]
        assert distance[own] <= min(distance) + 1e-9


def test_no_more_clusters_than_rows_differ(rng):
    rows = np.repeat(rng.normal(size=(3, 2)), 10, axis=0)
    assert len(set(clusters(rows, 20))) == 3
    assert clusters(rows.astype(np.float32), 1).tolist() == [0] * 30
    with pytest.raises(Undefined, match="no rows"):
        clusters(rows[:0], 3)
