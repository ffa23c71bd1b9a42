"""The pairs of experiments/remedies.py: alike but for the remedy, and able to train."""

from __future__ import annotations

import runpy

import jax
import pytest

from avjax.comparison.plan import differences, plan
from avjax.data.pipeline import Crop
from avjax.data.record import SCHEMA
from avjax.data.records import Description
from avjax.experiment import load_comparison, override
from avjax.nn.missing import WithMissingTokens
from avjax.objectives.groups import WithGroups
from avjax.objectives.prototypes import WithPrototypes
from avjax.training.on_mesh import build_state
from avjax.training.sharding import MeshShape

# With the remedy -> the settings that it changes beside the model, by their beginning.
CHANGES = {
    "joint_modulation": "rule",
    "joint_prototypes": "objective",
    "late_noise": "frontend.augment.",
    "late_adversarial": "inputs",
    "late_groups": "objective",
    "merged_dropout": "frontend.augment.",
    "merged_learned": "frontend.augment.",
    "merged_balance": "objective.balance",
}


@pytest.fixture
def experiments(root, monkeypatch):
    monkeypatch.chdir(root)
    return load_comparison("remedies").experiments


def test_a_pair_differs_in_its_remedy_alone(experiments, root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    pairs = runpy.run_path(str(root / "experiments" / "remedies.py"))["PAIRS"]
    assert pairs.keys() == CHANGES.keys()
    assert {*pairs, *pairs.values()} == set(experiments)
    for remedied, plain in pairs.items():
        one, other = experiments[plain], experiments[remedied]
        apart = differences({plain: one, remedied: other})
        assert apart, remedied
        assert all(setting.startswith(CHANGES[remedied]) for setting in apart), (remedied, list(apart))
        around = isinstance(other.model, WithPrototypes | WithGroups | WithMissingTokens)
        inner = other.model.model if around else other.model
        assert inner == one.model


def test_flags_reach_every_one(experiments, tmp_path):
    words = ("--training.steps", "7", "--data.records", "elsewhere")
    planned = plan(["remedies"], tmp_path, seeds=(3,), words=words)
    assert [run.name for run in planned] == list(experiments)
    assert all(run.steps == 7 and run.seed == 3 and run.experiment.data.records == "elsewhere" for run in planned)


def test_flags_reach_a_rule_for_inputs(experiments):
    words = ("--inputs.pixels", "0.5", "--inputs.attack.steps", "3")
    changed = override(experiments["late_adversarial"], words, "remedies").inputs
    assert (changed.pixels, changed.attack.steps) == (0.5, 3)


@pytest.mark.slow
def test_every_one_can_take_a_step(experiments):
    """By shapes alone: what a remedy needs of model, batch and objective is there."""
    video = {"height": 64, "width": 64, "channels": 3, "rate": 25.0, "uniform": True}
    classes = {"emotion": [str(k) for k in range(8)]}
    description = Description("demo", SCHEMA, classes, {}, {"rate": 16_000}, video, True, "", {}, {}, {})
    own = {
        "joint_modulation": "rule/confidence/audio",
        "joint_prototypes": "term/prototype",
        "late_groups": "term/group",
    }
    for name, experiment in experiments.items():
        steps, _, abstract = build_state(experiment, MeshShape().build(jax.devices()[:1]))
        batch = Crop(experiment.data, description).empty(experiment.data.batch)
        after, metrics = jax.eval_shape(steps.train, abstract, batch, jax.random.key(0))
        assert jax.tree.structure(after) == jax.tree.structure(abstract)
        assert {"loss", own.get(name, "loss")} <= metrics.keys()
