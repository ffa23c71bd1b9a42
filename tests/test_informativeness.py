"""experiments/informativeness.py: the planted truth against brute force, and the program on tiny corpora."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from avjax.data.synthesis.emotions import EMOTIONS, LEVELS, PAIRS, SEEN, Knobs


@pytest.fixture
def program(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import informativeness

    return informativeness


def brute_force(own: list[int], informativeness: float) -> float:
    """I(label; performed level) in bits, from the whole table of probabilities, term by term."""
    joint = np.zeros((len(EMOTIONS), LEVELS))
    for label, level in itertools.product(range(len(EMOTIONS)), range(LEVELS)):
        performed = informativeness * (own[label] == level) + (1 - informativeness) / LEVELS
        joint[label, level] = performed / len(EMOTIONS)
    found = 0.0
    for label, level in itertools.product(range(len(EMOTIONS)), range(LEVELS)):
        here = joint[label, level]
        if here > 0:
            found += here * np.log2(here / (joint[label].sum() * joint[:, level].sum()))
    return found


@pytest.mark.parametrize(("heard", "seen"), [(1.0, 0.5), (0.7, 1.0), (0.85, 0.0)])
def test_the_planted_truth_is_that_of_the_table(program, heard, seen):
    """Where jitter is small a cue tells its level for sure, and what it tells of the label can be written down."""
    knobs = Knobs(heard_informativeness=heard, seen_informativeness=seen, heard_jitter=0.02, seen_jitter=0.02)
    expected = {
        "audio": brute_force([PAIRS[emotion][0] for emotion in EMOTIONS], heard),
        "video": brute_force([SEEN.index(PAIRS[emotion][1]) for emotion in EMOTIONS], seen),
    }
    found = program.information(knobs, 2000)
    for name, bits in expected.items():
        # By the symmetry of the levels every clip tells as much, so that nothing is left to chance.
        assert found[name] == pytest.approx(bits, abs=1e-3)
    share = expected["audio"] / sum(expected.values())
    assert program.planted_share(knobs, 2000) == pytest.approx(share, abs=1e-3)


def test_jitter_takes_information(program):
    """Of equal draws, more jitter in a modality leaves less to learn of it alone."""
    bits = [program.information(Knobs(heard_jitter=jitter), 2000) for jitter in (0.1, 0.5, 2.0)]
    assert bits[0]["audio"] > bits[1]["audio"] + 0.2 > bits[2]["audio"] + 0.4
    assert all(found["video"] == pytest.approx(2, abs=0.01) for found in bits)
    assert all(found["both"] > max(found["audio"], found["video"]) for found in bits)


def test_the_settings_span_all_shares(program):
    shares = [program.planted_share(Knobs(heard_informativeness=h, seen_informativeness=s), 500)
              for h, s in program.SETTINGS]  # fmt: skip
    assert len(shares) == 9
    assert (np.diff(shares) < -0.05).all()
    assert shares[0] > 0.99
    assert shares[-1] < 0.01


def test_correlation_of_ranks(program):
    """Spearman's formula without ties, 1 - 6 sum d^2 / (n (n^2 - 1)); none of shares that are all the same."""
    planted, shares = np.array([1.0, 0.8, 0.5, 0.2]), np.array([0.9, 0.5, 0.6, 0.1])
    assert program.spearman(planted, shares) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert program.spearman(planted, np.full(4, 0.5)) is None


def test_the_table_and_the_plot_of_made_shares(program, tmp_path):
    row = dict.fromkeys(program.COLUMNS, 0.25)
    found = {"rows": [row, row | {"planted": 0.5}], "spearman": {"mm_shap": 0.75, "attention_share": None}}
    lines = program.table(found)
    assert len(lines) == 2 + 2 + 1
    assert lines[-1].endswith("| 0.750 | none |  |")
    program.plot(found, tmp_path / "plot.svg")
    assert "SYNTHETIC" in (tmp_path / "plot.svg").read_text()


@pytest.mark.slow
def test_the_program_on_tiny_corpora(program, tmp_path, capsys):
    options = program.Options(
        out=tmp_path, settings=3, actors=3, clips_per_actor=8, steps=2, clips=4, permutations=4
    )  # fmt: skip
    lines = program.carry_out(options)
    found = json.loads((tmp_path / "informativeness.json").read_text())
    assert found["synthetic"] is True
    planted = [row["planted"] for row in found["rows"]]
    assert planted[0] == 1
    assert planted[1] == pytest.approx(0.5, abs=0.01)
    assert planted[2] == 0
    for name, rho in found["spearman"].items():
        shares = np.array([row[name] for row in found["rows"]])
        assert ((shares >= 0) & (shares <= 1)).all()
        assert rho == program.spearman(np.array(planted), shares)
    assert len(lines) == 2 + 3 + 1
    assert "SYNTHETIC" in (tmp_path / "informativeness.svg").read_text()
    # A second run does nothing anew, and says the same.
    capsys.readouterr()
    assert program.carry_out(options) == lines
    assert "avjax train" not in capsys.readouterr().out
