"""The benchmark of a diagnosis measures what it says: the same values on both sides, and memory of the tokens."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from types import ModuleType

import numpy as np
import pytest

from avjax.diagnostics.players import raw_players, token_players
from tests.levels import in_short


@pytest.fixture(scope="module")
def program(root) -> ModuleType:
    folder = root / "experiments" / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmark_of_diagnostics", folder / "diagnostics.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def clips(run):
    from avjax.diagnostics.probe import reader_of
    from avjax.training.trained import Trained

    reader = reader_of(Trained.load(run.path), "label", "test")
    return reader.read(reader.choose(None))


@pytest.mark.parametrize("kind", in_short(("tokens", "raw"), ("raw",)))
@pytest.mark.slow
def test_shap_is_given_the_values_that_ours_is(program, probe, clips, rng, kind):
    players = token_players(probe.grids) if kind == "tokens" else raw_players(clips.streams)
    baseline = {m: np.full((), 0.25, np.float32) for m in probe.modalities} if kind == "raw" else None
    kept = rng.random((3, len(players))) < 0.5
    function = program.model_of_coalitions(probe, players, baseline)(clips.take([5]), 1)
    expected = probe.coalitions(clips.take([5]), kept, players, baseline)[:, 0, 1]
    np.testing.assert_allclose(function(kept.astype(np.float64)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_without_shap_its_part_is_left_out(program, probe, clips, monkeypatch):
    # None in its place makes Python raise ImportError.
    monkeypatch.setitem(sys.modules, "shap", None)
    found = program.shapley(probe, clips, program.Options(None, permutations=4))
    for one in found.values():
        # Two halves of two permutations, each with the coalitions of none and of all.
        assert one["avjax"]["evaluations"] == 4 * (one["players"] - 1) + 4
        assert one["avjax"]["seconds"] > 0
        assert "pip install shap" in one["left_out"]
    took = program.attention(probe, clips, 3)
    assert took["ratio"] == pytest.approx(took["attention"] / took["plain"])
    assert took["ratios"][0] <= took["ratios"][1]
    shown = {
        "machine": {"cores": 2, "platform": "cpu", "jax": "0", "load": [0.0, 1.0]}, "shapley": found,
        "attention": took, "memory": {"planned": [], "exponent": None},
        "tiers": {"smoke": {"seconds": 3.0, "cpu": 5.0, "bound": 60.0, "samples": {"clips": 9}, "stages": {"a": 1.0}}},
    }  # fmt: skip
    json.dumps(shown, allow_nan=False)
    program.show(shown)


def test_growth_is_the_exponent(program):
    def of(power):
        return [{"tokens": tokens, "bytes": 3 * tokens**power} for tokens in (96, 192)]

    assert program.growth(of(1)) == pytest.approx(1)
    assert program.growth(of(2)) == pytest.approx(2)
    assert program.growth(of(1)[:1]) is None


@pytest.mark.slow
def test_no_array_of_tokens_by_tokens(program):
    """Of towers of 2,049 and 4,097 tokens: what is dense has scores of all pairs, ours has tiles of them."""

    def squares(implementation: str) -> set[str]:
        _, lowered = program.lowered(64, implementation)
        shapes = re.findall(r"tensor<((?:\d+x)+)", lowered.as_text())
        # Patches of video have 1536 numbers.
        return {shape for shape in shapes if sum(int(n) >= 1024 and n != "1536" for n in shape.split("x")[:-1]) > 1}

    assert any("4097x4097" in shape for shape in squares("reference"))
    assert not squares("blockwise")


@pytest.mark.slow
def test_planned_memory_is_of_the_tokens(program):
    planned = program.memory([16, 32])
    assert [one["tokens"] for one in planned] == [1536, 3072]
    assert program.growth(planned) < 1.1
