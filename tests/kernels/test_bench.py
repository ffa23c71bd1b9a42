"""The benchmark: contestants compute the same, operations are counted as the mask leaves them, peers answer."""

from __future__ import annotations

import json
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.cli import main as avjax
from kernels import bench
from kernels.attention import Layout
from kernels.attention.specs import TABLE, Spec

TOKENS = Layout.of(audio=5, video=6)
PLAIN = Spec("plain", "all to all", TOKENS, TOKENS, 2, 8)
CAUSAL = Spec("causal", "in order", TOKENS, TOKENS, 4, 8, shared=2, causal=True)
TOWERS = Spec("towers", "apart", TOKENS, TOKENS, 2, 8, sees=(("audio", "audio"), ("video", "video")))


@pytest.mark.parametrize("spec", [PLAIN, CAUSAL, TOWERS], ids=lambda spec: spec.name)
@pytest.mark.slow
def test_contestants_compute_the_same(spec):
    """What is raced must be one thing: outputs and gradients agree."""
    case = bench.Case(spec, 2, direction="both")
    made = [bench.own("blockwise", case), bench.own("reference", case), bench.einsum(case), bench.jax_nn(case)]
    results = []
    for contestant in made:
        output, _, gradients = contestant._compiled(*contestant._arrays)
        results.append((output, gradients))
    for found in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, results[0])


def test_operations_are_those_of_the_pairs_that_are_seen():
    forward = bench.Case(PLAIN, 3)
    assert forward.operations == 2 * 2 * 3 * 2 * 11 * 11 * 8
    assert bench.Case(PLAIN, 3, direction="both").operations == 3.5 * forward.operations
    assert bench.Case(TOWERS, 3).operations == 2 * 2 * 3 * 2 * (25 + 36) * 8
    assert (TOWERS.seen()[:5, 5:]).sum() == 0
    assert CAUSAL.seen().sum() == 11 * 12 / 2
    mbt = TABLE["mbt_audioset"].seen()
    assert mbt.sum() == 405**2 + 1573**2


def test_contestants_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(bench, "PAUSE", 0)

    class Counting:
        memory = None

        def __init__(self, name):
            self.name = name

        def run(self):
            order.append(self.name)
            # What the first run of a turn takes is not counted.
            first = order.count(self.name) % 2
            return 9.0 if first else 2.0 if self.name == "a" else 3.0, 1.0

    measured = bench.compete([Counting("a"), Counting("b")], 8)
    turns = ["".join(order[i : i + 4]) for i in range(0, 32, 4)]
    assert set(turns) == {"aabb", "bbaa"}
    case = bench.Case(PLAIN, 1)
    plain = measured[1].plain(case, measured[0])
    assert plain["wall"] == {"median": 3.0, "low": 3.0, "high": 3.0, "ratio": 1.5}
    assert plain["gflops"] == pytest.approx(case.operations / 3e9)


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """A folder of peers whose attention is a stand-in for PyTorch's, with the real protocol."""
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "line.py").write_text((bench.PEERS / "line.py").read_text())
    (folder / "torch_attention.py").write_text(
        textwrap.dedent("""
            import json, sys
            from line import answer
            asked = json.loads(sys.argv[1])
            print("words of a library", file=sys.stderr)
            if asked["kind"] == "compile":
                sys.exit("no compiler here")
            answer(lambda: bytearray(20_000_000), queries=asked["shapes"]["query"][1])
        """)
    )
    monkeypatch.setattr(bench, "PEERS", folder)


def test_a_program_answers_line_by_line(peers):
    """One that dies says why."""
    case = bench.Case(PLAIN, 1)
    peer = bench.torch_attention(sys.executable, "sdpa", case)
    assert (peer.name, peer.ready["queries"]) == ("torch sdpa", 11)
    assert 10_000_000 < peer.memory < 100_000_000
    assert all(seconds >= 0 for seconds in (*peer.run(), *peer.run()))
    peer.close()
    with pytest.raises(RuntimeError, match=r"(?s)torch compile ended: .*no compiler here"):
        bench.torch_attention(sys.executable, "compile", case)


def test_a_program_may_be_measured_whole(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import os\nfrom line import answer\nanswer(lambda: None, word=os.environ['WORD'])\n")
    whole = bench.Program("it", [sys.executable, str(program)], whole=True, variables={"WORD": "yes"})
    assert whole.ready["word"] == "yes"
    assert whole.memory is None
    whole.run()
    assert 1_000_000 < whole.memory < 500_000_000
    whole.close()
    measured = bench.Measured("it", [2.0], [1.0], whole.memory)
    assert "gflops" not in measured.plain(first=measured)


@pytest.mark.slow
def test_the_command_writes_table_json_and_plot(tmp_path, capsys):
    words = ["attention", "--specs", "odd_7", "--rounds", "2", "--batch", "1", "--statistics", "mass"]
    assert avjax(["bench", *words, "--out", str(tmp_path / "bench")]) == 0
    shown = capsys.readouterr()
    assert "odd_7, batch 1, float32, both" in shown.out
    assert "left out: tokamax" in shown.err
    found = json.loads((tmp_path / "bench" / "attention.json").read_text())
    assert [case["direction"] for case in found["cases"]] == ["forward", "both"]
    names = ["blockwise", "reference", "einsum", "jax.nn", "+ statistics", "+ received"]
    for case in found["cases"]:
        assert [one["name"] for one in case["contestants"]] == names
        assert all(one["wall"]["median"] > 0 for one in case["contestants"])
    assert (tmp_path / "bench" / "attention.png").stat().st_size > 5000
    assert avjax(["bench", "attention", "--specs", "odd_8"]) == 2
    assert "no 'odd_8'; there are square, mbt_audioset" in capsys.readouterr().err
    assert avjax(["bench", "cooking"]) == 2


def test_bfloat16_is_measured_as_such():
    contestant = bench.own("blockwise", bench.Case(PLAIN, 1, "bfloat16"))
    assert contestant._arrays[0].dtype == jnp.bfloat16
    assert contestant.memory > 0
    wall, cpu = contestant.run()
    assert wall > 0
    assert cpu >= 0
