"""Attacks on linear models, where the smallest radius of a mistake is |margin| / sum_m r_m ||w_m||_1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks.adversary import Adversary
from avjax.diagnostics.stress.attacks.apgd import APGD
from avjax.diagnostics.stress.attacks.fab import FAB
from avjax.diagnostics.stress.attacks.gradient import PGD, fgsm, mi_fgsm
from avjax.diagnostics.stress.attacks.region import BOX, Region
from avjax.diagnostics.stress.attacks.square import Square
from tests.diagnostics.stress.attacks.linear import UNIT, Linear

# Float32 tells logits of some units apart by 1e-6 of them, and distances by a little more.
ABOVE, BELOW = 1.002, 0.998
INDEX = np.arange(5)

# These aim at each class by itself.
ANY = [APGD("targeted", steps=15), FAB(steps=15)]
# All are exact on two classes, where the gradient's signs are the same everywhere.
TWO = [*ANY, fgsm(), mi_fgsm(), APGD("ce", steps=15), APGD("dlr", steps=15)]


@pytest.mark.parametrize(
    ("attack", "classes"),
    [
        pytest.param(PGD(steps=10), 2, id="PGD"),
        *[pytest.param(attack, 4, id=attack.name) for attack in ANY],
        *[pytest.param(attack, 2, id=f"{attack.name}-2", marks=pytest.mark.slow) for attack in TWO],
    ],
)
@pytest.mark.slow
def test_succeeds_exactly_above_the_distance(rng, attack, classes):
    linear = Linear.draw(rng, classes=classes)
    distance = linear.distance()
    adversary = Adversary(linear.model, (attack,), batch=4)
    above = adversary(linear.clean, linear.label, linear.budget(ABOVE * distance), INDEX, {})
    assert not above.right.any()
    assert set(above.fell_to) == {attack.name}
    below = adversary(linear.clean, linear.label, linear.budget(BELOW * distance), INDEX, {})
    assert below.right.all()
    assert set(below.fell_to) == {""}
    # Values are the region's, and predictions are theirs.
    for name, (low, high) in BOX.items():
        moved = np.abs(above.values[name] - linear.clean[name]).reshape(5, -1).max(axis=1)
        assert (moved <= ABOVE * distance * UNIT[name] + 1e-6).all()
        assert ((above.values[name] >= low) & (above.values[name] <= high)).all()
    assert (adversary.logits(above.values).argmax(axis=1) == above.predicted).all()


def test_one_modality_alone(rng):
    """The distance of a budget on sound alone is |margin| / r ||w_audio||_1, and frames keep their bits."""
    linear = Linear.draw(rng, classes=2)
    alone = {"audio": 0.05}
    distance = linear.distance(alone)
    # Where the box lets it be: values are at least 0.25 from their ends.
    reachable = distance * alone["audio"] < 0.24
    adversary = Adversary(linear.model, (PGD(steps=10),), batch=5)
    for scale, right in ((ABOVE, False), (BELOW, True)):
        found = adversary(linear.clean, linear.label, linear.budget(scale * distance, alone), INDEX, {})
        assert (found.right[reachable] == right).all()
        assert found.values["video"].tobytes() == linear.clean["video"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4])
def test_nearest_mistake(rng, classes):
    """FAB finds the smallest radius, whatever the budget is that it is told in."""
    linear = Linear.draw(rng, classes=classes)
    region = Region.of(jax.tree.map(jnp.asarray, linear.clean), dict(UNIT), {}, BOX)
    nearest = jax.jit(FAB(steps=20).nearest)
    norms = [
        nearest(linear.model, region, jnp.asarray(linear.label), jnp.array(turn))[1] for turn in range(classes - 1)
    ]
    assert np.min(norms, axis=0) == pytest.approx(linear.distance(), rel=1e-3)
    assert (np.min(norms, axis=0) >= linear.distance() * (1 - 1e-4)).all()


@pytest.mark.slow
def test_search_without_gradients_needs_a_little_more(rng):
    """Square reaches twice the smallest radius with some hundreds of queries, and nothing reaches less than it."""
    linear = Linear.draw(rng, classes=4)
    adversary = Adversary(linear.model, (Square(queries=400),), batch=5)
    far = adversary(linear.clean, linear.label, linear.budget(2 * linear.distance()), INDEX, {})
    assert not far.right.any()
    near = adversary(linear.clean, linear.label, linear.budget(BELOW * linear.distance()), INDEX, {})
    assert near.right.all()


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=attack.name, marks=() if quick else pytest.mark.slow)
        for attack, quick in (
            (PGD(steps=3), True),
            (Square(queries=20), False),
            (mi_fgsm(3), False),
            (APGD("ce", steps=5), False),
            (APGD("dlr", steps=5), False),
            (APGD("targeted", steps=5), False),
            (FAB(steps=5), False),
        )
    ],
)
def test_padding_and_rows_without_a_budget_keep_their_bits(rng, attack):
    linear = Linear.draw(rng, classes=3)
    clean = {name: x.copy() for name, x in linear.clean.items()}
    valid = {"audio": np.arange(7) < np.array([7, 7, 6, 5, 0])[:, None], "video": np.ones((5, 2), bool)}
    valid["video"][:2, 1] = False
    for name, there in valid.items():
        clean[name][~there] = np.nan
    label = Adversary(linear.model, ()).logits(clean).argmax(axis=1)
    budget = {
        "audio": np.array([0.3, 0, 0.3, 0.3, 0.3], np.float32),
        "video": np.array([0.2, 0.2, 0, 0, 0.2], np.float32),
    }
    found = Adversary(linear.model, (attack,), batch=3)(clean, label, budget, INDEX, valid)
    for name, there in valid.items():
        still = ~there | (budget[name] == 0)[:, None]
        assert found.values[name][still].tobytes() == clean[name][still].tobytes()
        moved = found.values[name][~still]
        assert np.isfinite(moved).all()
        assert ((moved >= BOX[name][0]) & (moved <= BOX[name][1])).all()
        far = np.abs(found.values[name] - clean[name]).reshape(5, -1)
        assert (np.nanmax(np.where(np.isnan(far), 0, far), axis=1) <= budget[name] + 1e-6).all()
    assert any((found.values[name] != clean[name])[valid[name]].any() for name in valid)
    assert np.isfinite(found.margin).all()
