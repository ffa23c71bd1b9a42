"""experiments/peers: what counts as agreement, that disagreement is told, and the real libraries where they are."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from avjax.diagnostics.contribution.shapley import marginals

PROGRAMS = ("problem", "own", "agreement")
# By library, how many rows it has; one more is the network itself.
ROWS = {"shap": 4, "captum": 10, "quantus": 13}


@pytest.fixture(scope="module")
def peers():
    """The programs by their names, which are on the path of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "experiments" / "peers")
        for name in PROGRAMS:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in PROGRAMS}
        for name in PROGRAMS:
            del sys.modules[name]


def test_a_difference_is_a_share_of_the_largest_number(peers):
    compare = peers["agreement"].compare
    theirs = np.array([[4.0, -8.0]])
    row = compare("ours", "theirs", theirs + 8e-10, theirs)
    assert row.difference == pytest.approx(1e-10, rel=1e-4)
    assert row.agrees
    assert row.numbers == 2
    assert not compare("ours", "theirs", theirs + 1e-7, theirs).agrees
    assert compare("ours", "theirs", np.array([2e-10]), np.zeros(1)).difference == 2e-10
    assert not compare("ours", "theirs", np.array([np.nan, 1.0]), np.ones(2)).agrees
    with pytest.raises(ValueError, match=r"\(2, 1\) of ours"):
        compare("ours", "theirs", theirs.T, theirs)


def test_a_python_without_pytorch_is_told(peers):
    with pytest.raises(SystemExit, match="No module named 'torch'"):
        peers["agreement"].ask(sys.executable, {"logits": np.zeros(1)})
    with pytest.raises(SystemExit, match="does not run"):
        peers["agreement"].ask("no-such-python", {})


def test_what_is_drawn_is_exact_in_float32(peers, rng):
    problem = peers["problem"]
    drawn = problem.draw(int(rng.integers(2**31)))
    sums = problem.flat(drawn.clips) + drawn.noise
    for array in (*drawn.weights.values(), *drawn.clips.values(), *drawn.baseline.values(), drawn.noise, sums):
        np.testing.assert_array_equal(array, array.astype(np.float32))
    assert (drawn.removed.sum(axis=1) == problem.SUBSET).all()
    assert (drawn.inside.sum(axis=1) == problem.INSIDE).all()
    back = problem.apart(problem.flat(drawn.clips))
    assert all((back[name] == drawn.clips[name]).all() for name in problem.MODALITIES)


@pytest.mark.slow
def test_disagreement_ends_with_status_1(peers, monkeypatch, tmp_path, capsys, rng):
    """With answers that are made of ours: as they are, then with one number off."""
    agreement, off = peers["agreement"], 0.0
    same = {
        "shapley_few": "shapley", "gradient_times_input": "gradient_times_input", "max_sensitivity": "sensitivity_max",
        "integrated_gradients": "integrated_gradients", "integrated_input": "integrated_input",
        "integrated_baseline": "integrated_baseline", "expected_gradients": "expected_gradients",
        "completeness_error": "delta", "infidelity": "infidelity",
    }  # fmt: skip

    def answers(problem):
        nonlocal own
        own, asked = peers["own"].answers(problem)
        return own, asked

    def ask(python, asked):
        # Every permutation is one, and with its reverse it gives what was sampled.
        model = peers["own"].Model(agreement.draw(seed))
        both = np.concatenate([asked["permutations"], asked["permutations"][:, ::-1]])
        found = marginals(lambda present: model.value(present, asked["player"]), both, both.shape[1])[0]
        np.testing.assert_allclose(found.mean(axis=0), own["sampled"], rtol=0, atol=1e-12)
        theirs = {f"captum/{name}": own[ours].copy() for ours, name in same.items()}
        theirs["captum/infidelity"][-1] *= 1 + off
        return theirs | {"torch/logits": own["logits"]}, {
            "versions": {"torch": "0", "captum": "0"},
            "left_out": {"shap": "it is not here"},
        }

    own, seed = {}, int(rng.integers(2**31))
    monkeypatch.setattr(agreement, "answers", answers)
    monkeypatch.setattr(agreement, "ask", ask)
    words = ["--torch-python", "", "--seed", str(seed), "--out", str(tmp_path)]
    assert agreement.main(words) == 0
    kept = json.loads((tmp_path / "agreement.json").read_text())
    assert kept["agrees"]
    assert len(kept["rows"]) == 1 + ROWS["captum"]
    assert "left out: shap: it is not here" in capsys.readouterr().err
    off = 1.0
    assert agreement.main(words) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("beyond")] == [
        line for line in told if "infidelity.infidelity against captum.metrics.infidelity" in line
    ]
    assert not json.loads((tmp_path / "agreement.json").read_text())["agrees"]
    assert not jax.config.jax_enable_x64


@pytest.mark.slow
def test_the_libraries_agree(root, tmp_path):
    """Where an environment of theirs is: that of `make figures`, or the one that AVJAX_PEERS_PYTHON names."""
    python = Path(os.environ.get("AVJAX_PEERS_PYTHON") or root / ".venv-peers" / "bin" / "python")
    if not python.exists():
        pytest.skip("needs a Python with PyTorch, shap, captum and Quantus: AVJAX_PEERS_PYTHON, or `make figures`")
    program = str(root / "experiments" / "peers" / "agreement.py")
    words = [sys.executable, program, "--torch-python", str(python), "--json", "--seed", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "none could be asked" in done.stderr:
        pytest.skip(f"{python} has PyTorch alone")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["agrees"]
    libraries = found["versions"].keys() - {"jax", "torch"}
    assert len(found["rows"]) == 1 + sum(ROWS[library] for library in libraries)
