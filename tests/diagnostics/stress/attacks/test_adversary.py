"""The host's part: who is attacked, in what batches, with what random numbers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks import adversary as module
from avjax.diagnostics.stress.attacks.adversary import Adversary, in_batches, standard_autoattack
from avjax.diagnostics.stress.attacks.gradient import PGD, fgsm
from tests.diagnostics.stress.attacks.linear import Linear

INDEX = np.arange(5)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Proposes what breaks every bound, in two turns."""

    name: str = "nothing"

    def turns(self, classes):
        return 2

    def __call__(self, model, region, label, keys, turn):
        return jax.tree.map(lambda x: x + 100.0, dict(region.clean))


def test_batches_of_one_size():
    sizes = []

    def double(rows):
        sizes.append(len(rows["x"]))
        return 2 * rows["x"]

    assert in_batches(double, {"x": np.arange(7)}, 3).tolist() == (2 * np.arange(7)).tolist()
    assert sizes == [3, 3, 3]


def test_only_rows_that_are_right_are_attacked(rng, monkeypatch):
    """Wrong rows, rows without a radius and rows that fell are dropped; the first attack they fell to is named."""
    linear = Linear.draw(rng, classes=2)
    label = linear.label.copy()
    label[0] = 1 - label[0]
    units = np.array([2.0, 0.0, 0.5, 2.0, 2.0]) * linear.distance()
    seen = []
    real = module.in_batches

    def watched(function, rows, size):
        seen.append(len(jax.tree.leaves(rows)[0]))
        return real(function, rows, size)

    monkeypatch.setattr(module, "in_batches", watched)
    attacks = (fgsm(), PGD(steps=2, restarts=3))
    found = Adversary(linear.model, attacks, batch=4)(linear.clean, label, linear.budget(units), INDEX, {})
    # All for their logits; rows 2, 3, 4 by FGSM; row 2 by each start of PGD.
    assert seen == [5, 3, 1, 1, 1]
    assert found.fell_to == ("clean", "", "", "FGSM", "FGSM")
    assert found.right.tolist() == [False, True, True, False, False]
    assert found.accuracy == 0.4
    assert (
        found.margin[0]
        < 0
        < found.margin[2]
        < Adversary(linear.model, ())(linear.clean, label, {}, INDEX, {}).margin[2]
    )
    for name, x in found.values.items():
        assert x[:2].tobytes() == linear.clean[name][:2].tobytes()


def test_attacks_are_held_to_the_region(rng):
    """Whatever an attack proposes."""
    linear = Linear.draw(rng, classes=3)
    found = Adversary(linear.model, (Nothing(),), batch=5)(linear.clean, linear.label, {"video": 0.1}, INDEX, {})
    assert found.values["audio"].tobytes() == linear.clean["audio"].tobytes()
    expected = np.minimum(linear.clean["video"] + np.float32(0.1), 1)
    lower = found.predicted != linear.label
    for row, x in enumerate(found.values["video"]):
        # Where it did no harm the clean values are the worst.
        assert np.allclose(x, expected[row], atol=1e-7) or (not lower[row] and (x == linear.clean["video"][row]).all())


def test_a_row_is_attacked_the_same_in_any_company(rng):
    """Random starts follow from the clip's number, not from its row or batch."""
    linear = Linear.draw(rng, classes=4)
    adversary = Adversary(linear.model, (PGD(steps=2, step=0.5),), batch=2)
    budget = dict.fromkeys(linear.clean, 0.005 * float(linear.distance().min()))
    index = np.array([3, 1, 4, 15, 9])
    whole = adversary(linear.clean, linear.label, budget, index, {})
    order = np.array([4, 2, 0])
    chosen = {name: x[order] for name, x in linear.clean.items()}
    part = adversary(chosen, linear.label[order], budget, index[order], {})
    for name, x in part.values.items():
        assert np.array_equal(x, whole.values[name][order])
    other = dataclasses.replace(adversary, seed=1)(linear.clean, linear.label, budget, index, {})
    assert not np.array_equal(other.values["audio"], whole.values["audio"])


def test_no_budget_is_the_clean_prediction(rng):
    linear = Linear.draw(rng, classes=4)
    for budget in ({}, {"audio": 0.0, "video": np.zeros(5, np.float32)}):
        found = Adversary(linear.model, (Nothing(),))(linear.clean, linear.label, budget, INDEX, {})
        assert found.right.all()
        for name, x in linear.clean.items():
            assert found.values[name].tobytes() == x.tobytes()


def test_a_modality_without_a_box_is_refused(rng):
    linear = Linear.draw(rng)
    with pytest.raises(ValueError, match="no box is known for touch: budgets are of audio, video"):
        Adversary(linear.model, ())(linear.clean, linear.label, {"touch": 0.1}, INDEX, {})


@pytest.mark.slow
def test_other_inputs_pass_through(rng):
    """Whatever a model takes besides, of its own row."""
    linear = Linear.draw(rng, classes=2)

    def shifted(values):
        return linear.model(values) + values["shift"]

    clean = {**linear.clean, "shift": np.arange(10, dtype=np.int32).reshape(5, 2)}
    found = Adversary(shifted, (fgsm(),), batch=3)(clean, linear.label, linear.budget(0.1), INDEX, {})
    assert set(found.values) == {"audio", "video"}
    logits = linear.model(jax.tree.map(jnp.asarray, dict(found.values))) + clean["shift"]
    assert np.array_equal(found.predicted, np.asarray(logits).argmax(1))


def test_standard_autoattack_is_the_papers():
    attacks = standard_autoattack()
    assert [attack.name for attack in attacks] == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert [attack.turns(1000) for attack in attacks] == [1, 9, 9, 1]
    assert [attack.turns(3) for attack in attacks] == [1, 2, 2, 1]
    assert (attacks[0].steps, attacks[1].steps, attacks[2].steps, attacks[3].queries) == (100, 100, 100, 5000)


@pytest.mark.slow
def test_the_ensemble_breaks_what_one_attack_leaves(rng):
    """On four classes the gradient of cross-entropy aims at no class in particular; AutoAttack aims at each."""
    linear = Linear.draw(rng, rows=20, classes=4)
    budget = linear.budget(1.01 * linear.distance())
    attacks = standard_autoattack(steps=20, queries=50)
    ensemble = Adversary(linear.model, attacks, batch=8)(linear.clean, linear.label, budget, np.arange(20), {})
    assert not ensemble.right.any()
    for attack in attacks:
        alone = Adversary(linear.model, (attack,), batch=8)(linear.clean, linear.label, budget, np.arange(20), {})
        assert alone.right.sum() >= ensemble.right.sum()
