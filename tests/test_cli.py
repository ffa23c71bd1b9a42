"""The command line on tiny data: every command, its JSON, and errors that say what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from avjax.cli import COMMANDS, main
from avjax.data.media import Frames, Waveform, encode
from avjax.data.records import Records
from avjax.run import Run
from tests.fixtures.records import CLASSES, RATE, write_experiment, write_records


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two short runs of one experiment on tiny records, trained by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    file = write_experiment(folder / "experiments", write_records(folder / "records"))
    runs = [folder / "runs" / name for name in ("one", "two")]
    for seed, run in enumerate(runs):
        words = ["train", str(file), "--out", str(run), "--quiet", "--training.steps", "4", "--seed", str(seed)]
        assert main(words) == 0
    return runs


@pytest.fixture
def clip(tmp_path, rng):
    """A media file with sound and pictures, 0.6 s long."""
    frames = Frames(rng.integers(0, 255, (15, 16, 16, 3), dtype=np.uint8), np.arange(15) / 25)
    sound = Waveform((rng.normal(size=int(0.6 * RATE)) * 3000).astype(np.int16), RATE)
    encode(tmp_path / "clip.mp4", frames, sound)
    encode(tmp_path / "deaf.mp4", frames, None)
    encode(tmp_path / "blind.wav", None, sound)
    (tmp_path / "text.mp4").write_text("no video")
    return tmp_path


def run_json(capsys, *words):
    status = main([*map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_train_json_tells_the_results(trained, capsys):
    experiment = trained[0] / "experiment" / "tiny.py"
    status, found = run_json(
        capsys, "train", experiment, "--out", trained[0], "--quiet", "--training.steps", 4, "--seed", 0
    )
    assert status == 0
    assert found["one"]["steps"] == 4
    assert found["one"]["environment"]["devices"] == 8


@pytest.mark.slow
def test_eval_scores_runs_alone_and_averaged(trained, capsys, tmp_path):
    status, found = run_json(capsys, "eval", *trained, "--average", tmp_path / "mean")
    assert status == 0
    assert set(found) == {"one", "two", "mean"}
    assert found["one"]["test"]["metrics"]["label"]["accuracy"]["count"] == 10
    probabilities = [np.load(run / "predictions" / "test.npz")["predicted:label"] for run in trained]
    mean = np.load(tmp_path / "mean" / "predictions" / "test.npz")["predicted:label"]
    np.testing.assert_allclose(mean, np.mean(probabilities, axis=0), rtol=1e-6)


@pytest.mark.slow
def test_runs_of_one_name_are_told_apart(trained, capsys, tmp_path):
    shutil.copytree(trained[1], tmp_path / "elsewhere" / "one")
    average = tmp_path / "mean" / "one"
    _, found = run_json(capsys, "eval", trained[0], tmp_path / "elsewhere" / "one", "--average", average)
    assert list(found) == ["runs/one", "elsewhere/one", "mean/one"]
    assert all(result["synthetic"] for result in found.values())


@pytest.mark.slow
def test_averages_are_of_the_runs_own_records(trained, capsys, tmp_path):
    other = write_records(tmp_path / "other", test=10, seed=5)
    assert main([*map(str, ("eval", *trained, "--records", other, "--average", tmp_path / "mean"))]) == 2
    assert "leave out --records or --average" in capsys.readouterr().err


@pytest.mark.slow
def test_eval_on_other_records_leaves_the_run_as_it_was(trained, capsys, tmp_path):
    before = (trained[0] / "results.json").read_text()
    other = write_records(tmp_path / "other", test=6, seed=5)
    _, found = run_json(capsys, "eval", trained[0], "--records", other)
    assert found["one"]["test"]["metrics"]["label"]["accuracy"]["count"] == 6
    assert (trained[0] / "results.json").read_text() == before


@pytest.mark.slow
def test_predict_takes_files_with_a_missing_modality_and_goes_on_after_a_bad_one(trained, clip, capsys):
    files = [clip / name for name in ("clip.mp4", "text.mp4", "deaf.mp4", "blind.wav")]
    status, found = run_json(capsys, "predict", trained[0], *files)
    assert status == 0
    assert [answer.get("missing") for answer in found] == [[], None, ["audio"], ["video"]]
    assert "text.mp4" in found[1]["error"]
    for answer in (found[0], found[2], found[3]):
        assert set(answer["heads"]["label"]) == set(CLASSES["label"])
        assert sum(answer["heads"]["label"].values()) == pytest.approx(1, abs=1e-5)
    _, without = run_json(capsys, "predict", trained[0], clip / "clip.mp4", "--without", "audio")
    assert without[0]["missing"] == ["audio"]
    assert without[0]["heads"]["label"] == pytest.approx(found[2]["heads"]["label"], abs=0.05)


@pytest.mark.slow
def test_predict_equals_eval_on_the_same_clip(trained, tmp_path, capsys):
    """The same samples by both ways: a clip of the records, without pictures, and the file it would have come from."""
    records = Run.open(trained[0]).experiment().data.records
    record = Records(records).split("test")[4]
    assert record.video is None
    encode(tmp_path / "clip.wav", None, Waveform(record.audio.read(), RATE))
    _, found = run_json(capsys, "predict", trained[0], tmp_path / "clip.wav")
    assert found[0]["missing"] == ["video"]
    evaluated = np.load(trained[0] / "predictions" / "test.npz")["predicted:label"][4]
    predicted = [found[0]["heads"]["label"][name] for name in CLASSES["label"]]
    np.testing.assert_allclose(predicted, evaluated, rtol=1e-4)


@pytest.mark.slow
def test_only_bad_files_make_the_status_1(trained, clip, capsys):
    status, found = run_json(capsys, "predict", trained[0], clip / "text.mp4")
    assert status == 1
    assert list(found[0]) == ["file", "error"]


@pytest.mark.slow
def test_compare_writes_a_report_and_a_table(trained, tmp_path, capsys):
    status, found = run_json(capsys, "compare", *trained, "--out", tmp_path / "report.html")
    assert status == 0
    assert len(found) == 2
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["levitate"], "there is no command 'levitate'"),
        (["trian"], "did you mean 'train'"),
        (["train"], "usage: avjax train EXPERIMENT"),
        (["train", "demo_mtb"], "did you mean 'demo_mbt'"),
        (["train", "demo_mbt", "--profil"], "did you mean '--profile'"),
        (["prepare", "digist", "--data", "x", "--out", "y"], "did you mean 'digits'"),
        (["prepare", "nowhere.py", "--data", "x", "--out", "y"], "there is no corpus file nowhere.py"),
        (["eval", "nowhere"], "is not a run directory"),
        (["eval"], "needs a run directory"),
        (["predict", "nowhere", "x.mp4"], "is not a run directory"),
        (["compare"], "needs run directories"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(words, message, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads(command, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    first = {"prepare": ["digits"], "train": ["demo_mbt"]}.get(command, [])
    with pytest.raises(SystemExit) as stop:
        main([command, *first, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"avjax {command}" in shown
    expected = {
        "prepare": ["--corpus.held-out", "--video-codec"],
        "train": ["--out", "--optimizer.learning-rate", "--model.fusion-layer"],
        "eval": ["--average"],
        "predict": ["--without"],
        "diagnose": ["--tier", "--gate"],
        "compare": ["--title"],
        "launch": ["--processes", "--limit"],
        "plan": ["--target", "--presence"],
        "bench": ["--specs", "--torch-python"],
    }
    assert all(flag in shown for flag in expected[command])


def test_a_corpus_of_ones_own_is_one_file(tmp_path, capsys, monkeypatch):
    """A file anywhere on disk, of clips that are arrays; its fields are flags."""
    (tmp_path / "my_corpus.py").write_text(CORPUS)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    words = [
        "prepare",
        "my_corpus.py",
        "--data",
        "mine",
        "--out",
        "records",
        "--corpus.clips-each",
        "2",
        "--workers",
        "1",
    ]
    status, _ = run_json(capsys, *words)
    assert status == 0
    records = Records(tmp_path / "records")
    assert dict(records.description.counts) == {"train": 2, "validation": 2, "test": 2}
    assert records.description.provenance["ceilings"] == {"both": 1.0}
    assert records.split("test")[1].video.codec == "raw"


CORPUS = '''
"""Noise, for a test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from avjax.data.corpora import SPLITS, Clip
from avjax.data.media import Frames


@dataclasses.dataclass(frozen=True)
class Corpus:
    name: ClassVar[str] = "mine"
    synthetic: ClassVar[bool] = True
    licence: ClassVar[str] = "none"
    video_codec: ClassVar[str] = "raw"
    clips_each: int = 1

    @property
    def classes(self):
        return {"kind": ("a", "b")}

    def facts(self):
        return {"ceilings": {"both": 1.0}}

    def clips(self, root: Path) -> list[Clip]:
        frames = Frames(np.zeros((3, 8, 8, 3), np.uint8), np.arange(3) / 25)
        return [
            Clip(f"{split}{number}", None, frames, {"kind": number % 2}, split, split)
            for split in SPLITS
            for number in range(self.clips_each)
        ]
'''


def test_without_words_the_commands_are_listed(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"avjax {command}" in listed for command in COMMANDS)
    assert main(["--version"]) == 0


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(words):
        raise KeyError("x")

    monkeypatch.setitem(COMMANDS, "eval", broken)
    with pytest.raises(KeyError):
        main(["eval"])


def test_the_overview_needs_no_jax(root):
    code = "import sys, avjax.cli; avjax.cli.main(['--help']); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, stdout=subprocess.DEVNULL)
