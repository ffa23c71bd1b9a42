"""A base objective with the model's own terms."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from avjax.objectives.attention import AttentionTerms
from avjax.objectives.classification import Classification
from avjax.objectives.regression import Regression
from avjax.objectives.terms import WithTerms
from avjax.streams import Mean
from avjax.training.step import Objective
from tests.objectives.made import output_and_batch


def made(rng):
    losses = {
        "alignment": Mean(jnp.asarray(6.0), jnp.asarray(2.0)),
        "diversity": Mean(jnp.asarray(1.0), jnp.asarray(4.0)),
    }
    logits, target = rng.normal(size=(3, 4)).astype(np.float32), np.eye(4, dtype=np.float32)[[0, 2, 1]]
    return output_and_batch({"emotion": logits}, {"emotion": target}, np.ones(3, np.float32), losses=losses)


def test_terms_are_added_by_weight_and_all_are_told(rng):
    output, batch = made(rng)
    base, parts = Classification()(output, batch)
    objective = WithTerms(weights=(("alignment", 0.5),))
    loss, told = objective(output, batch)
    assert float(loss) == pytest.approx(float(base) + 0.5 * 3, rel=1e-6)
    assert told.keys() == parts.keys() | {"term/alignment", "term/diversity"}
    assert float(told["term/diversity"].value) == 0.25
    assert float(WithTerms()(output, batch)[0]) == float(base)
    assert isinstance(objective, Objective)


def test_terms_alone(rng):
    output, batch = made(rng)
    loss, told = WithTerms(None, (("diversity", 2.0),))(output, batch)
    assert float(loss) == 0.5
    assert told.keys() == {"term/alignment", "term/diversity"}
    assert float(WithTerms(None)(output, batch)[0]) == 0


def test_unknown_terms_are_told(rng):
    output, batch = made(rng)
    with pytest.raises(ValueError, match=r"no term 'aligment'; --objective.weights may name alignment, diversity"):
        WithTerms(weights=(("aligment", 1.0),))(output, batch)
    plain = dataclasses.replace(output, aux={})
    with pytest.raises(ValueError, match="may name none"):
        WithTerms(weights=(("alignment", 1.0),))(plain, batch)


def test_it_is_what_its_base_is(rng):
    output, _ = made(rng)
    assert WithTerms(Classification("sigmoid")).task == "labels"
    assert (WithTerms(Regression()).task, WithTerms(None).task) == ("values", "classes")
    assert WithTerms(AttentionTerms()).task == "classes"
    assert WithTerms(AttentionTerms(stability=1.0)).needs_second_view
    assert WithTerms(AttentionTerms()).statistics == ("mass", "entropy")
    assert WithTerms().statistics == ()
    assert WithTerms(Regression()).predictions(output)["emotion"] is output.logits["emotion"]
    np.testing.assert_allclose(WithTerms(None).predictions(output)["emotion"].sum(-1), 1, rtol=1e-5)


def test_the_command_line_sets_weights():
    default = WithTerms(Regression("l1"))
    words = ["--weights", "alignment", "0.1", "diversity", "2", "--objective.per-modality", "0.2"]
    found = tyro.cli(tyro.conf.AvoidSubcommands[WithTerms], args=words, default=default)
    assert found == WithTerms(Regression("l1", per_modality=0.2), (("alignment", 0.1), ("diversity", 2.0)))
