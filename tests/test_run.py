"""The run directory: replayed, never mixed, whole or not at all."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from avjax.data.pipeline import SeriesSampling
from avjax.experiment import ExperimentError, find, load
from avjax.run import Run, RunError, plain, read_json, settings, write_json, write_predictions
from tests.fixtures.records import write_experiment


@pytest.fixture
def tiny(tmp_path):
    return write_experiment(tmp_path / "experiments", tmp_path / "records")


def make(tiny, path, *words):
    experiment, source = load(tiny, words)
    return experiment, Run.create(path, experiment, source)


def test_a_run_is_rebuilt_from_its_file_and_words(tiny, tmp_path):
    experiment, run = make(tiny, tmp_path / "run", "--optimizer.learning-rate", "0.25", "--seed", "7")
    assert experiment.optimizer.learning_rate == 0.25
    # The original may change or vanish; the run keeps its own.
    for file in tiny.parent.iterdir():
        if file.is_file():
            file.unlink()
    again = Run.open(run.path).experiment()
    assert again == experiment
    assert again.seed == 7


def test_two_runs_of_files_that_import_namesakes_do_not_mix(tmp_path):
    for name, width in (("one", 16), ("two", 32)):
        file = write_experiment(tmp_path / name, tmp_path / "records")
        parts = file.with_name("tiny_parts.py")
        parts.write_text(parts.read_text().replace("mels=16", f"mels={width}").replace("(32, 16)", f"(32, {width})"))
    experiments = [load(tmp_path / name / "tiny.py")[0] for name in ("one", "two", "one")]
    assert [experiment.frontend.audio.mels for experiment in experiments] == [16, 32, 16]


def test_the_same_command_takes_a_run_up_and_another_is_refused(tiny, tmp_path):
    _, run = make(tiny, tmp_path / "run", "--seed", "1")
    assert make(tiny, tmp_path / "run", "--seed", "1")[1].path == run.path
    with pytest.raises(RunError, match=r"holds another run \(avjax train tiny.py --seed 1\)"):
        make(tiny, tmp_path / "run", "--seed", "2")
    with pytest.raises(RunError, match=r"optimizer.learning_rate was 0.003 and is 0.5"):
        make(tiny, tmp_path / "run", "--seed", "1", "--optimizer.learning-rate", "0.5")
    parts = tiny.with_name("tiny_parts.py")
    parts.write_text(parts.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match="has changed since"):
        make(tiny, tmp_path / "run", "--seed", "1")


def test_how_a_run_is_computed_may_change(tiny, tmp_path):
    """Another mesh, say; what the run is rebuilt from is then the newer words."""
    _, run = make(tiny, tmp_path / "run", "--seed", "1")
    words = [
        "--seed",
        "1",
        "--training.mesh.fsdp",
        "4",
        "--training.scan",
        "--training.keep-last",
        "5",
        "--data.workers",
        "1",
    ]
    make(tiny, tmp_path / "run", *words)
    assert run.experiment().training.mesh.fsdp == 4
    assert run.experiment().training.scan
    make(tiny, tmp_path / "run", "--seed", "1")
    assert run.experiment().training.mesh.fsdp == 1
    with pytest.raises(RunError, match=r"training.steps was 20 and is 21"):
        make(tiny, tmp_path / "run", "--seed", "1", "--training.steps", "21")


def test_a_folder_with_something_else_is_not_touched(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        make(tiny, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(tmp_path / "mine")


def test_predictions_come_back_and_damage_is_told(tiny, tmp_path, rng):
    _, run = make(tiny, tmp_path / "run")
    arrays = {"predicted:label": rng.random((3, 2)), "index": np.arange(3)}
    write_predictions(run.path, "test", arrays)
    for name, values in run.predictions("test").items():
        np.testing.assert_array_equal(values, arrays[name])
    file = run.path / "predictions" / "test.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RunError, match="is damaged"):
        run.predictions("test")
    with pytest.raises(RunError, match=r"has no predictions for 'train'; run `avjax eval"):
        run.predictions("train")


def test_nothing_is_unpickled(tiny, tmp_path):
    """An object array in an .npz is a pickle: refused."""
    _, run = make(tiny, tmp_path / "run")
    folder = run.path / "predictions"
    folder.mkdir()
    with zipfile.ZipFile(folder / "test.npz", "w") as archive, archive.open("index.npy", "w") as file:
        np.save(file, np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match="is damaged"):
        run.predictions("test")


def test_metrics_cut_off_by_a_crash_lose_their_last_line_alone(tiny, tmp_path):
    _, run = make(tiny, tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step"')
    assert [line["step"] for line in run.metrics()] == [1, 2]


def test_results_are_added_to(tiny, tmp_path):
    _, run = make(tiny, tmp_path / "run")
    run.add_results(test={"loss": 1.0})
    run.add_results(validation={"loss": 2.0})
    assert run.results() == {"test": {"loss": 1.0}, "validation": {"loss": 2.0}}
    assert list(run.path.glob(".*")) == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(run.path / "x.json", float("nan"))
    (run.path / "results.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        read_json(run.path / "results.json")


def test_config_names_every_class_and_field(tiny, tmp_path):
    experiment, run = make(tiny, tmp_path / "run")
    config = json.loads((run.path / "config.json").read_text())
    assert config == plain(experiment)
    assert config["model"]["class"] == "avjax.models.mbt.Config"
    assert config["model"]["modalities"][0]["shape"] == [32, 16]
    assert config["training"]["mesh"]["data"] == -1


def test_an_experiment_is_found_by_path_and_by_name(root, monkeypatch):
    monkeypatch.chdir(root)
    assert find("demo_mbt").resolve() == (root / "experiments" / "demo_mbt.py")
    assert find("experiments/demo_mbt.py").resolve() == (root / "experiments" / "demo_mbt.py")
    with pytest.raises(ExperimentError, match="did you mean 'demo_mbt'"):
        find("demo_mtb")


def test_a_file_without_an_experiment_is_told(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ExperimentError, match="has no function experiment"):
        load(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("def experiment():\n    return 3\n")
    with pytest.raises(ExperimentError, match="returned int, which is no Experiment"):
        load(tmp_path / "b.py")


def test_a_wrong_key_names_the_nearest(tiny, capsys):
    with pytest.raises(SystemExit):
        load(tiny, ("--optimizer.learnin-rate", "1"))
    assert "--optimizer.learning-rate" in capsys.readouterr().err


def test_sampling_of_series_is_changed_by_flags_and_replayed(tiny, tmp_path):
    text = tiny.read_text().replace("data=Data(", """data=Data(
            features={"text": SeriesSampling(20), "face": SeriesSampling(9, "openface")},
            targets={"va": SeriesSampling(5)}, sequences={"letters": 30},""")  # fmt: skip
    tiny.write_text(text.replace("import AudioSampling, Data,", "import AudioSampling, Data, SeriesSampling,"))
    words = ("--data.features.text.length", "50", "--data.sequences.letters", "40", "--data.targets.va.series", "x")
    experiment, run = make(tiny, tmp_path / "run", *words)
    assert experiment.data.features == {"text": SeriesSampling(50), "face": SeriesSampling(9, "openface")}
    assert (experiment.data.sequences, experiment.data.targets) == ({"letters": 40}, {"va": SeriesSampling(5, "x")})
    assert list(experiment.data.sampling) == ["audio", "video", "text", "face"]
    assert Run.open(run.path).experiment() == experiment
    assert settings(read_json(run.path / "config.json"))["data.features.text.length"] == 50
    make(tiny, tmp_path / "run", *words)
    with pytest.raises(RunError, match=r"data\.features\.text\.length was 50 and is 51"):
        make(tiny, tmp_path / "run", *words, "--data.features.text.length", "51")
