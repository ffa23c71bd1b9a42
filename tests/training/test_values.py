"""Values instead of classes, from records to a prediction."""

from __future__ import annotations

import json

import pytest

from tests.fixtures.records import write_experiment, write_records
from tests.training.conftest import Commands


@pytest.mark.slow
def test_values_are_trained_scored_and_predicted(tmp_path):
    records = write_records(tmp_path / "records")
    file = write_experiment(tmp_path / "experiments", records)
    text = file.read_text()
    for old, new in (
        ('classes={"label": 2}', 'classes={"values": 1}'),
        ("objective=Classification()", 'objective=Regression("ccc")'),
        ("batch=8,", 'batch=8, values=("level",),'),
        (
            "from avjax.objectives.classification import Classification",
            "from avjax.objectives.regression import Regression",
        ),
        ("Training(steps=20,", "Training(steps=60,"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    commands = Commands(tmp_path)
    trained = commands.run("train", file, "--out", "run", "--training.evaluate-every", "30",
                           "--training.best-by", "values/ccc", "--json", "--quiet")  # fmt: skip
    found = json.loads(trained.stdout)["run"]["test"]["metrics"]["values"]
    assert set(found) == {"ccc", "pcc", "rmse", "mae", "one_minus_mae"}
    # A tone's pitch and a patch's place tell the level.
    assert found["ccc"]["value"] > 0.8
    again = json.loads(commands.run("eval", "run", "--json").stdout)["run"]["test"]["metrics"]["values"]
    assert again["ccc"]["value"] == pytest.approx(found["ccc"]["value"], abs=1e-6)
    assert "CCC" in commands.run("compare", "run", "--out", "report.html").stdout
    assert "values, not classes" in (tmp_path / "report.html").read_text()
    wrong = commands.run("train", file, "--out", "other", "--data.values", "pitch", status=2)
    assert "set --data.values to some of level" in wrong.stderr
