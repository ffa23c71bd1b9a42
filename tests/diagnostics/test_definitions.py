"""The table of metrics: sound rows, ranges that hold what the functions return, and lines that take from it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from avjax.diagnostics.consistency import agreement, calibration, groups, robustness
from avjax.diagnostics.contribution import interaction, performance, shapley, shares
from avjax.diagnostics.definitions import DEFINITIONS, SECTIONS, Definition, facts, line, number, skipped
from avjax.diagnostics.definitions.definition import Scale, definition, table
from avjax.diagnostics.drift import axes, calibrated, divergence
from avjax.diagnostics.faithfulness import complexity, curves, infidelity, localisation, sanity
from avjax.diagnostics.measured import Undefined
from avjax.training.metrics import accuracy, confusion
from tests.diagnostics.ranges import out_of_range

CELLS = ("audio",) * 3 + ("video",) * 5
NAMES = ("audio", "video")
Random = np.random.Generator


def states(rng: Random, *rows: int) -> np.ndarray:
    """Some of whose cells are empty."""
    mass = rng.random((*rows, len(CELLS))) ** 4 * (rng.random((*rows, len(CELLS))) < 0.8)
    mass[..., 0] += 1e-3
    return mass / mass.sum(axis=-1, keepdims=True)


def softmax(rng: Random, rows: int, classes: int = 7) -> np.ndarray:
    return calibration.probabilities(rng.normal(0, 4, (rows, classes)))


def curve_area(rng: Random, measure: Callable) -> curves.Area:
    weight = rng.normal(size=8)

    def value(kept: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(kept @ weight[:, None])))

    return measure(value, rng.permutation(8), 8, draws=3)


def erased(rng: Random, measure: Callable) -> np.ndarray:
    weight = rng.normal(size=8)
    return measure(lambda kept: 1 / (1 + np.exp(-(kept @ weight[:, None]))), rng.permutation(8), 8)


def shapley_of(rng: Random) -> shapley.Sampled:
    weight, cross = rng.normal(size=8), rng.normal(size=(8, 8))

    def value(kept: np.ndarray) -> np.ndarray:
        return ((kept @ weight) + np.einsum("si,ij,sj->s", kept, cross, kept))[:, None]

    return shapley.sampled(value, CELLS, NAMES, seed=int(rng.integers(99)), permutations=4, most=4)


def performances(rng: Random) -> dict[frozenset[str], float]:
    return {subset: float(rng.random()) for subset in performance.subsets(NAMES)}


def rights(rng: Random, *shape: int) -> np.ndarray:
    return rng.random(shape) < rng.random()


def flags(rng: Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label, group = rights(rng, 300), rng.choice(np.array(["x", "y", "z"]), 300)
    return rights(rng, 300), label, group


def accuracies(rng: Random) -> dict[str, float]:
    yes, _, group = flags(rng)
    return {name: found.value for name, found in groups.rate_by_group(yes, group).items()}


# What a metric's function returns on random inputs.
VALUES: dict[str, Callable[[Random], object]] = {
    "contribution/attention_share": lambda r: shares.attention_share(
        shares.group_sums(states(r, 4, 6), CELLS, NAMES), np.ones((4, 6), bool)
    ),
    "contribution/attention_efficiency": lambda r: shares.efficiency(
        shares.group_sums(states(r, 4), CELLS, NAMES), np.array([3.0, 5.0])
    ),
    "contribution/attention_entropy": lambda r: complexity.normalised_entropy(states(r, 4), np.ones((4, 8), bool)),
    "contribution/value_weighted_share": lambda r: shares.value_weighted_share(states(r, 4), r.random(8), CELLS, NAMES),
    "contribution/integrated_gradients": lambda r: shares.magnitude_share(r.normal(size=(4, 8)), CELLS, NAMES),
    "contribution/mm_shap": lambda r: shapley_of(r).share,
    "contribution/mm_shap_corrected": lambda r: shapley_of(r).corrected_share,
    "contribution/mm_shap_error": lambda r: shapley_of(r).share_error,
    "contribution/shape": lambda r: list(performance.shape(performances(r), NAMES).values()),
    "contribution/majority_accuracy": lambda r: performance.majority(r.integers(0, 4, 30), 4),
    "contribution/necessity": lambda r: list(performance.necessity(performances(r), NAMES).values()),
    "contribution/sufficiency": lambda r: list(performance.sufficiency(performances(r), NAMES).values()),
    "contribution/utilisation_gap": lambda r: list(
        performance.utilisation_gap({"audio": r.random()}, {"audio": r.random()}).values()
    ),
    "contribution/valuation": lambda r: performance.valuation(rights(r, 4, 30)),
    "contribution/intershap": lambda r: interaction.intershap(r.normal(size=(4, 20)), local=False),
    "contribution/intershap_local": lambda r: interaction.intershap(r.normal(size=(4, 20)), local=True),
    "contribution/estimator_agreement": lambda r: divergence.rank_correlation(r.random(20), r.random(20)),
    "drift/cmsd": lambda r: divergence.drift(states(r, 9), states(r, 9), CELLS, NAMES).total,
    "drift/cmsd_allocation": lambda r: divergence.drift(states(r, 9), states(r, 9), CELLS, NAMES).allocation,
    "drift/cmsd_localisation": lambda r: divergence.drift(states(r, 9), states(r, 9), CELLS, NAMES).localisation,
    "drift/cmsd_score": lambda r: calibrated.calibrated(r.random(9), 0.1, 0.6),
    "drift/cmsd_time_raw": lambda r: axes.drift_rates(states(r, 6), CELLS, NAMES).mean(),
    "drift/cmsd_time_ceiling": lambda r: axes.shuffled_rate(states(r, 6), CELLS, NAMES),
    "drift/cmsd_severity": lambda r: axes.severity_drift(r.random((5, 9))),
    "drift/cmsd_severity_ceiling": lambda r: calibrated.drift_ceiling(states(r, 9), CELLS, NAMES),
    "drift/cmsd_severity_floor": lambda r: calibrated.drift_floor(states(r, 9), states(r, 4, 9), CELLS, NAMES),
    "drift/cmsd_train": lambda r: axes.training_drift(r.random(3), np.array([1, 4, 5, 90])),
    "drift/rfi": lambda r: axes.reliability_following(r.random(9), r.random((5, 9))),
    "drift/wander": lambda r: axes.wander(states(r, 6), CELLS, NAMES),
    "drift/path_length": lambda r: axes.path_length(axes.drift_rates(states(r, 6), CELLS, NAMES)),
    "drift/content_following": lambda r: axes.content_following(r.random(9), r.random(9)).correlation,
    "drift/separation": lambda r: axes.drift_separation(
        r.random(9), np.arange(9) < 5, np.arange(9) > 3, np.arange(9) > 3
    ),
    "drift/total_variation": lambda r: divergence.total_variation(states(r, 9), states(r, 9)),
    "drift/cosine": lambda r: divergence.cosine(states(r, 9), states(r, 9)),
    "drift/rank_correlation": lambda r: divergence.rank_correlation(states(r, 9), states(r, 9)),
    "drift/top_iou": lambda r: divergence.top_iou(states(r, 9), states(r, 9)),
    "drift/earth_mover_time": lambda r: divergence.earth_mover_time(states(r, 9), states(r, 9)),
    "drift/earth_mover_grid": lambda r: divergence.earth_mover_grid(states(r).reshape(2, 4), states(r).reshape(2, 4)),
    "consistency/agreement": lambda r: agreement.agreement(r.integers(0, 3, 20), r.integers(0, 3, 20)),
    "consistency/kappa": lambda r: agreement.kappa(r.integers(0, 3, 20), r.integers(0, 3, 20)),
    "consistency/soft_agreement": lambda r: agreement.soft_agreement(softmax(r, 9), softmax(r, 9)),
    "consistency/top_overlap": lambda r: agreement.top_overlap(softmax(r, 9), softmax(r, 9)),
    "consistency/negative_flips": lambda r: agreement.negative_flips(rights(r, 20), rights(r, 20)),
    "consistency/modality_confusion": lambda r: list(
        agreement.modality_confusion({"audio": rights(r, 20)}, rights(r, 20)).values()
    ),
    "consistency/ece": lambda r: calibration.expected_calibration_error(r.random(40), rights(r, 40)),
    "consistency/brier": lambda r: calibration.brier(softmax(r, 9), r.integers(0, 7, 9)),
    "consistency/nll": lambda r: calibration.negative_log_likelihood(r.normal(size=(9, 7)), r.integers(0, 7, 9)),
    "consistency/overconfidence": lambda r: calibration.overconfidence(r.random(40), rights(r, 40)),
    "consistency/aurc": lambda r: calibration.area_under_risk_coverage(r.random(40), rights(r, 40)),
    "stress/accuracy": lambda r: accuracy(confusion(r.integers(0, 3, 20), r.integers(0, 3, 20), 3)),
    "stress/retention": lambda r: robustness.retention(0.01 + r.random(), r.random()),
    "stress/absolute_robustness": lambda r: robustness.absolute_robustness(r.random(), r.random()),
    "stress/mean_performance": lambda r: robustness.mean_performance(r.random((3, 5))),
    "stress/mean_corruption_error": lambda r: robustness.mean_corruption_error(r.random((3, 5)), r.random((3, 5))),
    "stress/worst_group_accuracy": lambda r: groups.worst_group(accuracies(r))[1],
    "stress/group_gap": lambda r: groups.gap(accuracies(r)),
    "stress/demographic_parity_difference": lambda r: groups.demographic_parity_difference(*flags(r)[::2]),
    "stress/equalised_odds_difference": lambda r: groups.equalised_odds_difference(*flags(r), smallest=1),
    "faithfulness/comprehensiveness": lambda r: erased(r, curves.comprehensiveness),
    "faithfulness/sufficiency": lambda r: erased(r, curves.sufficiency),
    "faithfulness/deletion_gap": lambda r: curve_area(r, curves.deletion).gap,
    "faithfulness/infidelity": lambda r: infidelity.infidelity(r.normal(size=8), r.normal(size=(5, 8)), r.random(5)),
    "faithfulness/completeness_error": lambda r: infidelity.completeness_error(r.normal(size=8), 1.0, 0.0),
    "faithfulness/max_sensitivity": lambda r: infidelity.relative_changes(r.random(8), r.random((5, 8))).max(),
    "faithfulness/consensus_iou": lambda r: localisation.consensus_iou(r.random((9, 8)), r.random((9, 8))),
    "faithfulness/success_area": lambda r: localisation.success_area(r.random(9)),
    "faithfulness/relevance_mass": lambda r: localisation.relevance_mass(
        r.random((9, 8)), np.eye(9, 8, dtype=bool)[:8].repeat(2, axis=0)[:9]
    ),
    "faithfulness/segment_f1": lambda r: localisation.segment_f1(rights(r, 9, 8), rights(r, 9, 8)),
    "faithfulness/complexity": lambda r: complexity.entropy(states(r, 9)),
    "faithfulness/effective_tokens": lambda r: complexity.effective_tokens(states(r, 9)),
    "faithfulness/inverse_participation": lambda r: complexity.inverse_participation(states(r, 9)),
    "faithfulness/gini": lambda r: complexity.gini(states(r, 9)),
    "faithfulness/head_redundancy": lambda r: complexity.head_redundancy(states(r, 3, 6), np.ones(6, bool)),
    "faithfulness/head_cosine": lambda r: complexity.head_cosine(states(r, 3, 6), np.ones(6, bool)),
    "faithfulness/head_cka": lambda r: complexity.linear_cka(r.random((9, 3)), r.random((9, 4))),
    "faithfulness/rank_cascade": lambda r: sanity.rank_cascade(r.random((3, 8, 8)), r.random((2, 3, 8, 8))),
    "faithfulness/similarity_cascade": lambda r: sanity.similarity_cascade(r.random((3, 8, 8)), r.random((2, 3, 8, 8))),
    "faithfulness/entropy_rise": lambda r: sanity.entropy_rise(states(r, 9), states(r, 9)),
}


@pytest.mark.parametrize("id", VALUES)
def test_values_lie_in_the_range(id: str, rng: Random) -> None:
    one = DEFINITIONS[id]
    rounding = 1e-12
    for _ in range(10):
        try:
            found = np.asarray(VALUES[id](rng), np.float64)
        except Undefined:
            continue
        assert np.isfinite(found).all()
        low, high = (-np.inf if one.low is None else one.low), (np.inf if one.high is None else one.high)
        assert low - rounding <= found.min() <= found.max() <= high + rounding


@pytest.mark.parametrize("one", DEFINITIONS.values(), ids=lambda one: one.id)
def test_a_row_is_whole(one: Definition) -> None:
    assert one.section in SECTIONS
    assert one.version >= 1
    assert all((one.title, one.equation, one.unit, one.pitfalls, one.source))
    assert one.pitfalls.endswith(".")
    assert not re.search(r"\[[A-Z]\]", one.source)


@pytest.mark.parametrize("one", DEFINITIONS.values(), ids=lambda one: one.id)
def test_what_computes_it_exists(one: Definition) -> None:
    found = one.resolve()
    assert callable(found) or isinstance(found, property)
    assert (found.fget if isinstance(found, property) else found).__doc__


def test_every_section_has_rows() -> None:
    assert {one.section for one in DEFINITIONS.values()} == set(SECTIONS)
    assert all(id == one.id for id, one in DEFINITIONS.items())


def made(id: str = "drift/x", scale: Scale = Scale("share", 0, 1)) -> Definition:
    return definition(id, "x", "x", scale, function="streams.Stream", source="ours", pitfalls="None.")


@pytest.mark.parametrize("id", ["cmsd", "drift/CMSD", "noise/x", "drift/", "drift/a b", "drift/a/b", "drift/1"])
def test_an_id_names_its_section(id: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        made(id)


def test_a_range_holds_its_null_baseline() -> None:
    with pytest.raises(ValueError, match="null baseline"):
        made(scale=Scale("share", 0, 1, "none", 2))
    with pytest.raises(ValueError, match="empty"):
        made(scale=Scale("share", 1, 0))
    one = made(scale=Scale("nats", None, 3, "none", -5))
    assert one.range == "(-inf, 3]"
    assert one.holds(-1e9)
    assert not one.holds(4.0)
    assert made().range == "[0, 1]"
    assert made(scale=Scale("n", 1, None)).range == "[1, inf)"


def test_no_id_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        table([made(), made()])


def test_a_path_that_leads_nowhere_is_told() -> None:
    with pytest.raises(AttributeError):
        definition("drift/x", "x", "x", Scale("n", 0, 1), function="streams.River", source="x", pitfalls="x.").resolve()
    assert made().resolve().__name__ == "Stream"


def test_a_line_has_what_the_table_says() -> None:
    yes = np.array([True, False, True, True])
    one = line("consistency/kappa", lambda rows: float(yes[rows].mean()), np.arange(4), estimator="x", group="audio",
               samples=20)  # fmt: skip
    assert (one.value, one.unit, one.direction, one.null_baseline, one.version) == (0.75, "kappa", "higher", 0, 1)
    assert one.group == "audio"
    assert one.ci_lo is not None
    assert one.n == 4
    # A baseline that depends on the data is the caller's.
    chance = line("stress/accuracy", lambda rows: 1.0, np.arange(4), estimator="x", null_baseline=0.25, samples=20)
    assert chance.null_baseline == 0.25
    assert facts("stress/accuracy")["null_baseline"] is None


def test_a_number_has_no_interval_and_may_be_undefined() -> None:
    one = number("drift/rfi", lambda: 0.5, estimator="attention", n=7, ci_lo=0.4, ci_hi=0.6)
    assert (one.value, one.ci_lo, one.n, one.status) == (0.5, 0.4, 7, "ok")

    def nothing() -> float:
        raise Undefined("no mass moved")

    none = number("drift/rfi", nothing, estimator="attention", n=7, ci_lo=0.4, ci_hi=0.6)
    assert (none.value, none.ci_lo, none.status, none.reason) == (None, None, "undefined", "no mass moved")


def test_what_was_skipped_says_why() -> None:
    one = skipped("contribution/mm_shap", "the tier has none", estimator="permutations")
    assert (one.value, one.status, one.reason, one.unit) == (None, "skipped", "the tier has none", "share")


def test_lines_out_of_their_range_are_found() -> None:
    """An entropy in nats where a share is meant, and the end of an interval; not what float32 rounds."""
    inside = [number("contribution/attention_entropy", lambda x=x: x, estimator="x", n=1) for x in (0, 1, 1 + 1e-7)]
    assert out_of_range(inside) == []
    nats = number("contribution/attention_entropy", lambda: 2.3, estimator="x", n=1)
    wide = number("drift/rfi", lambda: 0.5, estimator="x", n=7, ci_lo=0.4, ci_hi=1.6)
    found = out_of_range([*inside, nats, wide, skipped("drift/rfi", "none", estimator="x")])
    assert [("value 2.3" in one, "ci_hi 1.6" in one) for one in found] == [(True, False), (False, True)]
