"""What shap, captum and Quantus say of the network of problem.py, in a Python with PyTorch: agreement.py runs this.

    python answers.py QUESTION.npz ANSWER.npz

Reads arrays and writes arrays, each library's under its own name; prints, as JSON, the libraries' versions and why one
is left out. Nothing of avjax is imported here, so that both sides share numbers and no code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional

Asked = Mapping[str, np.ndarray]
Answer = dict[str, np.ndarray]


class Network(torch.nn.Module):
    """The network of problem.py, of audio [B, 8, 3] and video [B, 4, 6]."""

    def __init__(self, asked: Asked):
        super().__init__()
        self.weights = {name[8:]: torch.tensor(asked[name]) for name in asked if name.startswith("weights/")}
        self.heads = int(asked["heads"])

    def embed(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return torch.tanh(values @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/position"])

    def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        w = self.weights
        tokens = torch.cat([self.embed("audio", audio), self.embed("video", video)], 1)
        rows, count, width = tokens.shape
        query, key, value = (
            (tokens @ w[name]).view(rows, count, self.heads, width // self.heads).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        pooled = (tokens + attended.transpose(1, 2).reshape(rows, count, width) @ w["out"]).mean(1)
        return functional.softplus(pooled @ w["hidden"] + w["hidden/bias"]) @ w["logits"] + w["logits/bias"]


class OfPicture(torch.nn.Module):
    """The same network of all cells as one picture [B, 1, H, W], in whatever precision it comes."""

    def __init__(self, network: Network, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.network, self.shapes = network, shapes

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.network(*self.apart(picture.double().flatten(1)))

    def apart(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        audio, video = torch.split(cells, sizes, dim=1)
        return audio.reshape(-1, *self.shapes["audio"]), video.reshape(-1, *self.shapes["video"])


class Question:
    """The arrays that were asked, as PyTorch has them, and the network."""

    def __init__(self, asked: Asked):
        self.asked, self.network = asked, Network(asked)
        self.inputs = torch.tensor(asked["audio"]), torch.tensor(asked["video"])
        self.baseline = torch.tensor(asked["baseline/audio"]), torch.tensor(asked["baseline/video"])
        self.target = torch.tensor(asked["target"])
        self.picture = OfPicture(self.network, {name: asked[name].shape[1:] for name in ("audio", "video")})
        self.cells = torch.cat([part.flatten(1) for part in self.inputs], 1)
        self.cells_absent = torch.cat([part.flatten(1) for part in self.baseline], 1)

    def value(self, present: np.ndarray, player: np.ndarray, row: int) -> np.ndarray:
        """The logit of a clip's class with the players of each row of ``present`` [S, n] there."""
        there = torch.tensor(np.asarray(present) > 0.5)[:, torch.tensor(player)]
        cells = torch.where(there, self.cells[row], self.cells_absent[row])
        with torch.no_grad():
            return self.network(*self.picture.apart(cells))[:, self.target[row]].numpy()


def of_network(question: Question) -> Answer:
    with torch.no_grad():
        return {"torch/logits": question.network(*question.inputs).numpy()}


def of_shap(question: Question) -> Answer:
    """Shapley values of windows; permutations are those that were asked, which shap then draws."""
    from shap.explainers import ExactExplainer, PermutationExplainer
    from shap.maskers import Independent

    asked, found = question.asked, {}

    def explained(player: np.ndarray, explainer: type, **options: Any) -> np.ndarray:
        count, values = int(player.max()) + 1, []
        for row in range(len(question.cells)):
            # A feature is whether its player is there, so that the background, one row, has none.
            explain = explainer(lambda present: question.value(present, player, row), Independent(np.zeros((1, count))))  # noqa: B023
            values.append(explain(np.ones((1, count)), silent=True, **options).values[0])
        return np.stack(values)

    found["shap/exact"] = explained(asked["player"], ExactExplainer)
    found["shap/interactions"] = explained(asked["player/modality"], ExactExplainer, interactions=2)
    permutations = asked["permutations"]
    turn = iter(np.tile(permutations, (len(question.cells), 1)))

    def shuffled(indices: np.ndarray) -> None:
        indices[:] = next(turn)

    evaluations = len(permutations) * (2 * permutations.shape[1] + 1)
    with mock.patch.object(np.random, "shuffle", shuffled):
        found["shap/permutations"] = explained(asked["player"], PermutationExplainer, max_evals=evaluations)
    return found


def of_captum(question: Question) -> Answer:
    """Attributions by gradients, Shapley values, infidelity and sensitivity, of both modalities at once."""
    from captum.attr import InputXGradient, IntegratedGradients, ShapleyValues
    from captum.metrics import infidelity, sensitivity_max

    asked, model, inputs, target = question.asked, question.network, question.inputs, question.target
    path: dict[str, Any] = {"target": target, "n_steps": int(asked["steps"]), "method": "riemann_middle"}
    found = {}

    def joined(parts: tuple[torch.Tensor, ...]) -> np.ndarray:
        return torch.cat([part.flatten(1) for part in parts], 1).detach().numpy()

    products = InputXGradient(model)
    found["captum/gradient_times_input"] = joined(products.attribute(inputs, target=target))
    gradients, delta = IntegratedGradients(model).attribute(
        inputs, question.baseline, return_convergence_delta=True, **path
    )
    found["captum/integrated_gradients"], found["captum/delta"] = joined(gradients), delta.numpy()
    of_audio = IntegratedGradients(lambda moving, rest: model(moving, rest))
    of_video = IntegratedGradients(lambda moving, rest: model(rest, moving))
    for name, (audio, video) in {"input": inputs, "baseline": question.baseline}.items():
        alone = zip((of_audio, of_video), inputs, question.baseline, (video, audio), strict=True)
        parts = [one.attribute(x, b, additional_forward_args=rest, **path) for one, x, b, rest in alone]
        found[f"captum/integrated_{name}"] = joined(tuple(parts))
    others = zip(torch.tensor(asked["others/audio"]), torch.tensor(asked["others/video"]), strict=True)
    each = [joined(IntegratedGradients(model).attribute(inputs, other, **path)) for other in others]
    found["captum/expected_gradients"] = np.mean(each, axis=0)

    player = question.picture.apart(torch.tensor(asked["player/few"])[None])
    total = joined(ShapleyValues(model).attribute(inputs, question.baseline, target=target, feature_mask=player))
    # Every cell of a player has the player's value.
    first = [int(np.argmax(asked["player/few"] == one)) for one in range(int(asked["player/few"].max()) + 1)]
    found["captum/shapley"] = total[:, first]

    noise = torch.tensor(asked["noise"])
    draws = len(noise)
    # A clip's disturbances one after the other, as captum repeats its inputs.
    disturbed = question.picture.apart(noise.transpose(0, 1).flatten(0, 1))
    slopes = question.picture.apart(torch.tensor(asked["gradient"]))
    found["captum/infidelity"] = infidelity(
        model,
        lambda repeated: (disturbed, tuple(x - d for x, d in zip(repeated, disturbed, strict=True))),
        inputs,
        slopes,
        target=target,
        n_perturb_samples=draws,
    ).numpy()
    found["captum/sensitivity_max"] = sensitivity_max(
        products.attribute,
        inputs,
        lambda repeated: tuple(x + d for x, d in zip(repeated, disturbed, strict=True)),
        n_perturb_samples=draws,
        target=target,
    ).numpy()
    return found


def of_quantus(question: Question) -> Answer:
    """Metrics of one array alone, for which all cells are one picture; attributions are those that were asked."""
    import quantus

    asked, model = question.asked, question.picture.eval()
    batch, height, width = len(question.cells), *(int(side) for side in asked["picture"])
    shape = (batch, 1, height, width)
    absent = question.cells_absent.numpy()
    raw = {"abs": False, "normalise": False, "disable_warnings": True, "return_aggregate": False}
    found = {}

    def ask(metric: Any, attribution: str, **more: Any) -> np.ndarray:
        scores = metric(
            model=model,
            x_batch=question.cells.numpy().reshape(shape),
            y_batch=asked["target"],
            a_batch=asked[attribution].reshape(shape).copy(),
            channel_first=True,
            **more,
        )
        return np.asarray(scores, np.float64)

    def removed(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        """Cells as they are in the baseline."""
        changed = arr.copy()
        np.put_along_axis(changed, indices, np.take_along_axis(absent, indices, axis=1), axis=1)
        return changed

    found["quantus/sparseness"] = ask(quantus.Sparseness(**raw), "magnitude")
    found["quantus/complexity"] = ask(quantus.Complexity(**raw), "magnitude")
    found["quantus/effective"] = ask(quantus.EffectiveComplexity(eps=float(asked["least"]), **raw), "magnitude")

    inside = {"s_batch": asked["inside"].reshape(shape)}
    count = int(asked["inside"][0].sum())
    found["quantus/pointing"] = ask(quantus.PointingGame(**raw), "magnitude", **inside)
    found["quantus/mass"] = ask(quantus.RelevanceMassAccuracy(**raw), "magnitude", **inside)
    found["quantus/rank"] = ask(quantus.RelevanceRankAccuracy(**raw), "magnitude", **inside)
    found["quantus/top"] = ask(quantus.TopKIntersection(k=count, **raw), "magnitude", **inside)

    flipping = quantus.PixelFlipping(features_in_step=1, perturb_func=removed, **raw)
    found["quantus/flipping"] = ask(flipping, "attribution", softmax=True)
    sets = iter(np.repeat([np.flatnonzero(row) for row in asked["removed"]], batch, axis=0))
    correlation = quantus.FaithfulnessCorrelation(
        nr_runs=len(asked["removed"]), subset_size=int(asked["removed"][0].sum()), perturb_func=removed, **raw
    )
    with mock.patch.object(np.random, "choice", side_effect=sets):
        found["quantus/correlation"] = ask(correlation, "attribution")

    shown: list[np.ndarray] = []

    def watched(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        shown.append(removed(arr, indices))
        return shown[-1]

    patches = quantus.Infidelity(perturb_patch_sizes=[2], n_perturb_samples=1, perturb_func=watched, **raw)
    found["quantus/infidelity"] = ask(patches, "gradient")
    found["quantus/infidelity/changes"] = question.cells.numpy() - np.stack(shown)

    def explain(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        """Gradient times input."""
        cells = torch.tensor(inputs, dtype=torch.float64).requires_grad_()
        model(cells)[range(len(cells)), targets].sum().backward()
        return (cells * cells.grad).detach().numpy().reshape(len(cells), 1, height, width)

    robustness: dict[str, Callable] = {
        "max": quantus.MaxSensitivity, "average": quantus.AvgSensitivity, "lipschitz": quantus.LocalLipschitzEstimate,
    }  # fmt: skip
    for name, metric in robustness.items():
        draws = iter(asked["noise"])
        disturbed = metric(nr_samples=len(asked["noise"]), perturb_func=lambda arr, **_: arr + next(draws), **raw)  # noqa: B023
        found[f"quantus/{name}"] = ask(disturbed, "product", explain_func=explain)
    return found


def main(question: str, answer: str) -> None:
    with np.load(question, allow_pickle=False) as arrays:
        asked = Question(dict(arrays))
    found, left_out, versions = of_network(asked), {}, {"torch": torch.__version__}
    for name, ask in {"shap": of_shap, "captum": of_captum, "quantus": of_quantus}.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            left_out[name] = str(error)
            continue
        versions[name] = importlib.metadata.version(name)
        found |= ask(asked)
    np.savez(answer, **found)
    print(json.dumps({"versions": versions, "left_out": left_out}))


if __name__ == "__main__":
    main(*sys.argv[1:])
