"""avjax's side of agreement.py: its numbers of a problem, and what the peers are told so that they compute the same."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from problem import CELLS, HEADS, MODALITIES, PICTURE, Problem, apart, cells_of, flat, logits, players, score

from avjax.diagnostics.contribution.gradients import (
    expected_gradients,
    gradient_times_input,
    integrated_by_modality,
    integrated_gradients,
)
from avjax.diagnostics.contribution.interaction import interactions
from avjax.diagnostics.contribution.shapley import Coalitions, Sampled, coalitions, exact, sampled
from avjax.diagnostics.faithfulness import complexity, curves, infidelity, localisation

# Points of a path: few, so that the errors of the integrals have something to agree in; a power of two, because captum
# holds their weights in float32.
STEPS = 16
PERMUTATIONS = 16
# |phi| above which a cell counts for the effective complexity.
LEAST = 0.02

Numbers = dict[str, np.ndarray]


@dataclasses.dataclass
class Model:
    """The network and its clips as avjax's metrics take them; x is a clip, b its baseline, c its class."""

    problem: Problem

    def __post_init__(self) -> None:
        self.weights = {name: jnp.asarray(one) for name, one in self.problem.weights.items()}
        self.logits = np.asarray(logits(self.problem.clips, self.weights))
        self.classes = self.logits.argmax(axis=1)
        self.cells, self.absent = flat(self.problem.clips), flat(self.problem.baseline)
        self.arguments = (self.weights, jnp.asarray(self.classes))

    def of_cells(self, cells: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S K"]:
        return np.asarray(logits(apart(cells), self.weights))

    def kept(self, there: Bool[np.ndarray, "S N"], row: int) -> Float[np.ndarray, "S K"]:
        """Logits of a clip with the cells of each row there and the rest as in the baseline."""
        return self.of_cells(np.where(there, self.cells[row], self.absent[row]))

    def value(self, present: Coalitions, player: Int[np.ndarray, " N"]) -> Float[np.ndarray, "S B"]:
        """f_c of every clip with the players of each coalition."""
        rows = [self.kept(present[:, player], row)[:, c] for row, c in enumerate(self.classes)]
        return np.stack(rows, axis=1)

    def product(self, cells: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
        return flat(gradient_times_input(score, apart(cells), self.arguments))

    def gradient(self) -> Float[np.ndarray, "B N"]:
        clips = {name: jnp.asarray(one) for name, one in self.problem.clips.items()}
        return flat(jax.grad(lambda moving: score(moving, *self.arguments).sum())(clips))


def answers(problem: Problem) -> tuple[Numbers, Numbers]:
    """(avjax's numbers, the question for the peers)."""
    model = Model(problem)
    contributions, drawn = of_contribution(model)
    attribution = contributions["integrated_gradients"]
    own = contributions | of_faithfulness(model, attribution)
    asked = {f"weights/{name}": one for name, one in problem.weights.items()}
    for name in MODALITIES:
        asked |= {
            name: problem.clips[name],
            f"baseline/{name}": problem.baseline[name],
            f"others/{name}": np.stack([other[name] for other in problem.others]),
        }
    asked |= {
        "target": model.classes, "heads": np.asarray(HEADS), "steps": np.asarray(STEPS), "permutations": drawn,
        "player": cells_of(players(4)), "player/few": cells_of(players(2)), "player/modality": cells_of(players(1)),
        "noise": problem.noise, "removed": problem.removed, "inside": problem.inside,
        "picture": np.asarray(PICTURE), "least": np.asarray(LEAST), "attribution": attribution,
        "magnitude": np.abs(attribution), "gradient": model.gradient(), "product": own["gradient_times_input"],
    }  # fmt: skip
    return own, asked


def of_contribution(model: Model) -> tuple[Numbers, Int[np.ndarray, "P n"]]:
    """Shapley values and attributions by gradients, and the permutations that were drawn, without their reverses."""
    problem, found = model.problem, {"logits": model.logits}
    for name, count in (("shapley", 4), ("shapley_few", 2)):
        divided = players(count)
        player = cells_of(divided)
        found[name] = exact(lambda present: model.value(present, player), len(divided))  # noqa: B023
    modality = cells_of(players(1))
    found["interactions"] = interactions(model.value(coalitions(2), modality))
    drawn = of_permutations(model)
    found["sampled"], found["sampled_share"] = drawn[0].values, drawn[0].share

    clips, baseline = problem.clips, problem.baseline
    fixed = {"steps": STEPS, "most_steps": STEPS}
    found["gradient_times_input"] = model.product(model.cells)
    joint = integrated_gradients(score, clips, baseline, model.arguments, **fixed)
    found["integrated_gradients"], found["integration_error"] = flat(joint.attribution), joint.error
    whole, empty = (np.asarray(score(one, *model.arguments)) for one in (clips, baseline))
    found["difference"] = whole - empty
    found["completeness_error"] = infidelity.completeness_error(flat(joint.attribution), whole, empty)
    for rest in ("input", "baseline"):
        alone = integrated_by_modality(score, clips, baseline, model.arguments, rest=rest, **fixed)
        found[f"integrated_{rest}"] = flat({name: alone[name].attribution[name] for name in MODALITIES})
    expected = expected_gradients(score, clips, problem.others, model.arguments, **fixed)
    found["expected_gradients"] = flat(expected.attribution)
    return found, drawn[1]


def of_permutations(model: Model) -> tuple[Sampled, Int[np.ndarray, "P n"]]:
    """``sampled`` of the windows, and the permutations that it asked values of, read from its coalitions."""
    divided = players(4)
    player, count, seen = cells_of(divided), len(divided), []

    def value(present: Coalitions) -> Float[np.ndarray, "S B"]:
        # The two ends, then the first 1, 2 .. n - 1 players of each permutation; a player comes where they differ.
        inner = present[2:].reshape(-1, count - 1, count)
        none, everyone = np.zeros((len(inner), 1, count), bool), np.ones((len(inner), 1, count), bool)
        walks = np.concatenate([none, inner, everyone], axis=1)
        seen.append((walks[:, 1:] & ~walks[:, :-1]).argmax(axis=2))
        return model.value(present, player)

    found = sampled(value, divided.groups, divided.names, seed=0, permutations=PERMUTATIONS, most=PERMUTATIONS)
    # Each half holds its drawn permutations and then the same in reverse, which shap adds by itself.
    return found, np.concatenate([half[: len(half) // 2] for half in seen])


def of_faithfulness(model: Model, attribution: Float[np.ndarray, "B N"]) -> Numbers:
    """Of one attribution, clip by clip where the metric is of one sample."""
    problem, magnitude = model.problem, np.abs(attribution)
    rows = range(len(attribution))
    found = {
        "gini": complexity.gini(magnitude),
        "entropy": complexity.entropy(magnitude),
        "effective_complexity": complexity.effective_complexity(attribution, LEAST),
        "pointing_game": localisation.pointing_game(magnitude, problem.inside),
        "relevance_mass": localisation.relevance_mass(magnitude, problem.inside),
        "relevance_rank": localisation.relevance_rank(magnitude, problem.inside),
        "top_iou": localisation.top_iou_with(magnitude, problem.inside),
    }
    # Steps of one cell; of p_c, as the definition says.
    fractions = tuple(cell / CELLS for cell in range(CELLS + 1))
    everywhere = np.ones(CELLS, bool)
    curve, correlation = [], []
    for row, c in enumerate(model.classes):

        def probability(there: Bool[np.ndarray, "S N"]) -> Float[np.ndarray, "S 1"]:
            return softmax(model.kept(there, row))[:, c, None]  # noqa: B023

        def logit(there: Bool[np.ndarray, "S N"]) -> Float[np.ndarray, "S 1"]:
            return model.kept(there, row)[:, c, None]  # noqa: B023

        order = curves.ranking(attribution[row], everywhere)
        curve.append(curves.deletion_curve(probability, order, CELLS, fractions=fractions)[:, 0])
        correlation.append(infidelity.sensitivity_n(attribution[row], logit, problem.removed)[0])
    found |= {"deletion_curve": np.stack(curve), "sensitivity_n": np.stack(correlation)}
    found["infidelity"] = infidelities(model, problem.noise)
    product = model.product(model.cells)
    moved = np.stack([model.product(model.cells + disturbance) for disturbance in problem.noise])
    changes = infidelity.relative_changes(product, moved)
    found |= {"max_sensitivity": changes.max(axis=0), "avg_sensitivity": changes.mean(axis=0)}
    found["local_lipschitz"] = np.stack(
        [
            infidelity.local_lipschitz(
                product[row], moved[:, row], model.cells[row], model.cells[row] + problem.noise[:, row]
            )
            for row in rows
        ]
    )
    return found


def infidelities(model: Model, perturbations: Float[np.ndarray, "S B N"]) -> Float[np.ndarray, " B"]:
    """``infidelity`` of each clip's gradient, under its own perturbations."""
    values = [model.of_cells(model.cells - one)[range(len(model.cells)), model.classes] for one in perturbations]
    change = model.logits.max(axis=1) - np.stack(values)
    slopes = model.gradient()
    return np.stack(
        [infidelity.infidelity(slopes[row], perturbations[:, row], change[:, row]) for row in range(len(slopes))]
    )


def softmax(values: Float[np.ndarray, "S K"]) -> Float[np.ndarray, "S K"]:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
