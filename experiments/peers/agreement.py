"""avjax's metrics beside those of shap, captum and Quantus: the same network, clips and draws on both sides.

    python experiments/peers/agreement.py --torch-python PYTHON [--seed 0] [--out FOLDER] [--json]

The network (problem.py) stands once in JAX and once in PyTorch (answers.py), both in float64; weights, clips,
permutations, disturbances and sets of cells are drawn here and handed over as plain arrays. PYTHON is one that has
PyTorch and the libraries, such as `make figures` makes. A difference is the largest one over the largest number of the
peer. Ends with status 1 where one is beyond its tolerance, or where no library could be asked.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from own import Model, Numbers, answers, infidelities, softmax
from problem import draw
from rich.console import Console
from rich.table import Table

from avjax.diagnostics.faithfulness import complexity

PEER = Path(__file__).with_name("answers.py")
# Of numbers in float64 that both sides sum in other orders, and of those that one side holds in float32.
TOLERANCE, SINGLE = 1e-9, 1e-6


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric beside its peer.

    Attributes:
      metric: function of avjax, in avjax.diagnostics.contribution or .faithfulness.
      peer: what was called of the library.
      conversion: what stands between two definitions, or "" where they are one.
      numbers: how many were compared.
      difference: max |ours - theirs| / max |theirs|.
      tolerance: greatest difference that is agreement.
    """

    metric: str
    peer: str
    conversion: str
    numbers: int
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        # A difference that is no number does not.
        return self.difference <= self.tolerance


def compare(
    metric: str, peer: str, ours: np.ndarray, theirs: np.ndarray, conversion: str = "", tolerance: float = TOLERANCE
) -> Row:
    """A row of two arrays of the same shape."""
    if ours.shape != theirs.shape or not theirs.size:
        raise ValueError(f"{metric}: {ours.shape} of ours against {theirs.shape} of {peer}")
    apart = float(np.abs(np.asarray(ours, np.float64) - theirs).max())
    largest = float(np.abs(theirs).max())
    return Row(metric, peer, conversion, theirs.size, apart / largest if largest else apart, tolerance)


def rows(model: Model, own: Numbers, theirs: Numbers, libraries: Sequence[str]) -> list[Row]:
    """Every metric that one of the libraries has."""
    of = {"shap": _shap, "captum": _captum, "quantus": _quantus}
    network = compare("logits", "torch", own["logits"], theirs["torch/logits"], "the network itself")
    return [network, *(row for library in libraries for row in of[library](model, own, theirs))]


def _shap(model: Model, own: Numbers, theirs: Numbers) -> list[Row]:
    permutations = theirs["shap/permutations"]
    amounts = np.abs(permutations).reshape(len(permutations), 2, -1).sum(axis=2)
    return [
        compare("shapley.exact", "shap.ExactExplainer", own["shapley"], theirs["shap/exact"]),
        compare(
            "shapley.sampled", "shap.PermutationExplainer", own["sampled"], permutations,
            "its permutations replaced by ours",
        ),
        compare(
            "shapley.Sampled.share", "shap.PermutationExplainer",
            own["sampled_share"], amounts / amounts.sum(axis=1, keepdims=True), "sums of its magnitudes",
        ),
        compare(
            "interaction.interactions", "shap.ExactExplainer(interactions=2)",
            own["interactions"], theirs["shap/interactions"], "two players: of more, its index is Shapley-Taylor's",
        ),
    ]  # fmt: skip


def _captum(model: Model, own: Numbers, theirs: Numbers) -> list[Row]:
    delta = np.abs(theirs["captum/delta"])
    path = "captum.IntegratedGradients(riemann_middle)"
    return [
        compare(
            "shapley.exact", "captum.ShapleyValues", own["shapley_few"], theirs["captum/shapley"],
            "it adds them up in float32", SINGLE,
        ),
        compare(
            "gradients.gradient_times_input", "captum.InputXGradient",
            own["gradient_times_input"], theirs["captum/gradient_times_input"],
        ),
        compare(
            "gradients.integrated_gradients", path,
            own["integrated_gradients"], theirs["captum/integrated_gradients"],
        ),
        *(
            compare(
                f"gradients.integrated_by_modality(rest={rest!r})", path,
                own[f"integrated_{rest}"], theirs[f"captum/integrated_{rest}"], "one moves, the other is an argument",
            )
            for rest in ("input", "baseline")
        ),
        compare(
            "gradients.expected_gradients", path,
            own["expected_gradients"], theirs["captum/expected_gradients"], "its mean over the baselines",
        ),
        compare(
            "gradients.Integrated.error", "captum: convergence delta",
            own["integration_error"], delta / np.abs(own["difference"]).clip(1e-6), "over the size of f(x) - f(b)",
        ),
        compare(
            "infidelity.completeness_error", "captum: convergence delta",
            own["completeness_error"], delta, "its magnitude",
        ),
        compare(
            "infidelity.infidelity", "captum.metrics.infidelity",
            own["infidelity"], theirs["captum/infidelity"],
        ),
        compare(
            "infidelity.relative_changes, maximum", "captum.metrics.sensitivity_max",
            own["max_sensitivity"], theirs["captum/sensitivity_max"],
        ),
    ]  # fmt: skip


def _quantus(model: Model, own: Numbers, theirs: Numbers) -> list[Row]:
    magnitude = np.abs(own["integrated_gradients"])
    whole = softmax(theirs["torch/logits"])[range(len(magnitude)), model.classes]
    return [
        compare(
            "complexity.gini", "quantus.Sparseness", complexity.gini(magnitude + 1e-7),
            theirs["quantus/sparseness"], "it adds 1e-7 to every cell",
        ),
        compare(
            "complexity.entropy", "quantus.Complexity", own["entropy"], theirs["quantus/complexity"],
            "it adds 1e-12 within the logarithm",
        ),
        compare(
            "complexity.effective_complexity", "quantus.EffectiveComplexity",
            own["effective_complexity"], theirs["quantus/effective"],
        ),
        compare(
            "localisation.pointing_game", "quantus.PointingGame",
            own["pointing_game"], theirs["quantus/pointing"], "no ties: of those it counts any hit, ours their share",
        ),
        compare(
            "localisation.relevance_mass", "quantus.RelevanceMassAccuracy",
            own["relevance_mass"], theirs["quantus/mass"],
        ),
        compare(
            "localisation.relevance_rank", "quantus.RelevanceRankAccuracy",
            own["relevance_rank"], theirs["quantus/rank"],
        ),
        compare(
            "localisation.top_iou_with", "quantus.TopKIntersection", own["top_iou"],
            theirs["quantus/top"] / (2 - theirs["quantus/top"]), "r / (2 - r) of its share r of the top K",
        ),
        compare(
            "curves.deletion_curve", "quantus.PixelFlipping", own["deletion_curve"][:, 1:],
            theirs["quantus/flipping"] / whole[:, None], "over p_c of the whole clip",
        ),
        compare(
            "infidelity.sensitivity_n", "quantus.FaithfulnessCorrelation",
            own["sensitivity_n"], theirs["quantus/correlation"], "its sets replaced by ours",
        ),
        compare(
            "infidelity.infidelity", "quantus.Infidelity",
            infidelities(model, theirs["quantus/infidelity/changes"]), theirs["quantus/infidelity"],
            "over its perturbations: patches that go one after the other",
        ),
        compare(
            "infidelity.relative_changes, maximum", "quantus.MaxSensitivity",
            own["max_sensitivity"], theirs["quantus/max"],
        ),
        compare(
            "infidelity.relative_changes, mean", "quantus.AvgSensitivity",
            own["avg_sensitivity"], theirs["quantus/average"],
        ),
        compare(
            "infidelity.local_lipschitz", "quantus.LocalLipschitzEstimate",
            own["local_lipschitz"], theirs["quantus/lipschitz"], "it adds 1e-10 to distances",
        ),
    ]  # fmt: skip


def ask(python: str, asked: Numbers) -> tuple[Numbers, dict]:
    """What answers.py says under another Python: arrays, and its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "question.npz"), Path(folder, "answer.npz")
        np.savez(question, **asked)
        words = [python, str(PEER), str(question), str(answer)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise SystemExit(f"peers: {python} does not run: {error}") from error
        if done.returncode:
            raise SystemExit(f"peers: no answer of {python}:\n{done.stderr[-2000:]}")
        with np.load(answer, allow_pickle=False) as arrays:
            return dict(arrays), json.loads(done.stdout.splitlines()[-1])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="a Python with PyTorch, shap, captum and Quantus")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the clips and all that is drawn")
    parser.add_argument("--out", type=Path, help="folder for agreement.json")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args(words)
    with jax.enable_x64(True):
        problem = draw(arguments.seed)
        own, asked = answers(problem)
        theirs, about = ask(arguments.torch_python, asked)
        libraries = [name for name in about["versions"] if name != "torch"]
        if not libraries:
            raise SystemExit("peers: none could be asked: " + "; ".join(about["left_out"].values()))
        found = rows(Model(problem), own, theirs, libraries)
    broken = [row for row in found if not row.agrees]
    result = {
        "seed": arguments.seed,
        "versions": {"jax": jax.__version__, **about["versions"]},
        "left_out": about["left_out"],
        "agrees": not broken,
        "rows": [{**dataclasses.asdict(row), "agrees": row.agrees} for row in found],
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "agreement.json").write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        return int(bool(broken))
    table = Table(title="Agreement with peers")
    for heading in ("avjax", "peer", "between the two", "numbers", "difference", "tolerance"):
        table.add_column(heading, overflow="fold")
    for row in found:
        style = None if row.agrees else "bold red"
        numbers = (str(row.numbers), f"{row.difference:.1e}", f"{row.tolerance:.0e}")
        table.add_row(row.metric, row.peer, row.conversion, *numbers, style=style)
    Console().print(table)
    print(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    for name, why in about["left_out"].items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    for row in broken:
        print(f"beyond its tolerance: {row.metric} against {row.peer}: {row.difference:.3g}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
