"""Experiments compared under one budget: the plan, the conditions, the costs, and the whole command on tiny records."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from avjax.cli import main
from avjax.comparison import show
from avjax.comparison.carry_out import error_in
from avjax.comparison.costs import PICOJOULES_A_MAC, Uncounted, multiply_accumulates
from avjax.comparison.measure import CONDITIONS, LateVideo, misaligned, reason_against, without
from avjax.comparison.outcome import outcome
from avjax.comparison.plan import differences, plan
from avjax.data.media import Frames
from avjax.data.pipeline import AudioSampling, Crop, Data, SeriesSampling, VideoSampling, evaluation_batches
from avjax.data.record import SCHEMA, Record, Video
from avjax.data.records import Description
from avjax.experiment import Comparison, ExperimentError, load, load_comparison
from avjax.objectives.terms import WithTerms
from avjax.run import Run, RunError, write_json, write_predictions
from avjax.training.evaluate import Predictions
from avjax.training.metrics import Measure, over_seeds
from avjax.training.on_mesh import build_state
from avjax.training.sharding import MeshShape
from tests.fixtures.records import write_experiment, write_records
from tests.training.conftest import Commands, finished, until

COMPARISON = '''"""Three tiny systems, and one that does not fit its data."""

from __future__ import annotations

import dataclasses

import tiny
from tiny_parts import AUDIO, VIDEO

from avjax.experiment import Comparison
from avjax.models import late_fusion
from avjax.nn.transformer import Size


def comparison() -> Comparison:
    mbt = tiny.experiment()
    late = late_fusion.Config((AUDIO, VIDEO), {"label": 2}, Size(16, 2, 2, 2))
    audio = dataclasses.replace(late, modalities=(AUDIO,))
    broken = dataclasses.replace(late, modalities=(dataclasses.replace(AUDIO, shape=(64, 16)), VIDEO))
    alone = dataclasses.replace(mbt.data, video=None)
    return Comparison(
        {
            "broken": dataclasses.replace(mbt, model=broken),
            "mbt": mbt,
            "late": dataclasses.replace(mbt, model=late),
            "audio": dataclasses.replace(mbt, model=audio, data=alone),
        },
        seeds=(0, 1),
    )
'''


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """A file of a comparison on tiny records in which every clip has everything."""
    folder = tmp_path_factory.mktemp("compare")
    file = write_experiment(folder / "experiments", write_records(folder / "records", missing=False))
    (file.parent / "several.py").write_text(COMPARISON)
    return file.parent / "several.py"


# ------------------------------------------------------------------------------------------------- which runs


def test_every_experiment_with_every_seed(several, tmp_path):
    runs = plan([str(several)], tmp_path, words=("--training.steps", "3"), only=("mbt", "audio"))
    assert [(run.name, run.seed, run.steps) for run in runs] == [
        ("mbt", 0, 3), ("audio", 0, 3), ("mbt", 1, 3), ("audio", 1, 3),
    ]  # fmt: skip
    assert runs[0].path == tmp_path / "mbt" / "seed-0"
    files = plan([str(several.parent / "tiny.py"), f"{several}:late"], tmp_path, seeds=(4,))
    assert [(run.name, run.seed) for run in files] == [("tiny", 4), ("late", 4)]
    with pytest.raises(ExperimentError, match="no 'mtb' to compare; there are broken, mbt"):
        plan([str(several)], tmp_path, only=("mtb",))
    with pytest.raises(ExperimentError, match="two of the experiments are named tiny"):
        plan([str(several.parent / "tiny.py")] * 2, tmp_path)


def test_a_member_s_run_is_rebuilt_from_its_own_files(several, tmp_path):
    experiment, source = load(f"{several}:late", ("--seed", "3"))
    assert source.name == "several-late"
    run = Run.create(tmp_path / "run", experiment, source)
    assert Run.open(run.path).experiment() == experiment
    assert Run.create(run.path, experiment, source) == run
    assert sorted(file.name for file in (run.path / "experiment").iterdir()) == [
        "several.py", "tiny.py", "tiny_parts.py",
    ]  # fmt: skip


def test_what_is_no_member_says_what_is(several):
    with pytest.raises(ExperimentError, match="has no 'mtb'; it has broken, mbt, late, audio"):
        load(f"{several}:mtb")
    with pytest.raises(ExperimentError, match="name one of them"):
        load(several)
    assert load_comparison(several.parent / "tiny.py") is None
    with pytest.raises(ExperimentError, match="serve as a folder's"):
        Comparison({"../up": load(f"{several}:mbt")[0]})


def test_what_is_not_shared_is_told(several):
    found = {name: load(f"{several}:{name}")[0] for name in ("mbt", "late", "audio")}
    assert list(differences(found)) == ["data.video"]
    assert differences(found)["data.video"]["audio"] is None
    slower = dataclasses.replace(found["late"].optimizer, learning_rate=1e-4)
    found = {"mbt": found["mbt"], "late": dataclasses.replace(found["late"], optimizer=slower, seed=5)}
    assert differences(found) == {"optimizer.learning_rate": {"mbt": 3e-3, "late": 1e-4}}
    other = WithTerms(found["mbt"].objective, (("term", 1.0),))
    found["late"] = dataclasses.replace(found["mbt"], model=found["late"].model, objective=other)
    assert list(differences(found)) == ["objective"]
    lines = show.unshared({"a": {"x": 1, "y": 1, "z": None}})
    assert lines == ["a: 1, but z none"]


def test_demo_comparison_shares_what_it_says(root, monkeypatch):
    monkeypatch.chdir(root)
    comparison = load_comparison("compare_demo")
    assert {"audio", "video", "late_fusion", "mbt"} < set(comparison.experiments)
    apart = differences(comparison.experiments)
    assert all(setting.split(".")[0] in ("data", "objective") for setting in apart)
    assert {setting for setting in apart if setting.startswith("data")} == {"data.audio", "data.video"}


@pytest.mark.slow
def test_every_demo_system_can_take_a_step(root, monkeypatch):
    """By shapes alone: the models fit their data, and their objectives find the terms that they name."""
    monkeypatch.chdir(root)
    video = {"height": 64, "width": 64, "channels": 3, "rate": 25.0, "uniform": True}
    classes = {"emotion": [str(k) for k in range(8)]}
    for experiment in load_comparison("compare_demo").experiments.values():
        description = Description("demo", SCHEMA, classes, {}, {"rate": 16_000}, video, True, "", {}, {}, {})
        steps, _, abstract = build_state(experiment, MeshShape().build(jax.devices()[:1]))
        batch = Crop(experiment.data, description).empty(experiment.data.batch)
        after, metrics = jax.eval_shape(steps.train, abstract, batch, jax.random.key(0))
        assert jax.tree.structure(after) == jax.tree.structure(abstract)
        assert "loss" in metrics


# ------------------------------------------------------------------------------------------------- conditions


def test_a_modality_is_taken_away_whole(several):
    experiment, _ = load(f"{several}:mbt")
    batch = next(evaluation_batches(experiment.data, "test")[1])
    gone = without(batch, "video")
    assert not gone.streams["video"].valid.any()
    assert not gone.streams["video"].values.any()
    assert gone.streams["audio"] is batch.streams["audio"]
    assert batch.streams["video"].valid.any()


def clip(frames: int, rate: float) -> Record:
    """Frames that show their own number."""
    images = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 4, 4, 3))
    video = Video.encode(Frames(np.ascontiguousarray(images), np.arange(frames) / rate), codec="raw")
    return Record("clip", "test", "", {}, {}, None, video, {})


def shown(way: VideoSampling, record: Record, start: float) -> tuple[list[int], list[bool]]:
    values, valid = np.full((way.frames, 4, 4, 3), 99, np.uint8), np.zeros(way.frames, bool)
    way.read(record, start, values, valid)
    return values[:, 0, 0, 0].tolist(), valid.tolist()


def test_late_pictures_are_of_a_later_moment_and_go_on_from_the_start():
    record = clip(20, 10.0)
    assert shown(LateVideo(4, 10.0, 0.5), record, 0.2) == ([7, 8, 9, 10], [True] * 4)
    assert shown(LateVideo(4, 10.0, 0.5), record, 1.3) == ([18, 19, 0, 1], [True] * 4)
    assert shown(LateVideo(4, 10.0, 0.0), record, 1.3) == shown(VideoSampling(4, 10.0), record, 1.3)


def test_late_pictures_are_as_many_as_otherwise(rng):
    for _ in range(200):
        record = clip(int(rng.integers(2, 30)), 10.0)
        way = VideoSampling(int(rng.integers(1, 12)), float(rng.choice([3.0, 6.25, 10.0, 30.0])))
        start, late = float(rng.uniform(0, record.video.end)), float(rng.uniform(0, 4))
        values, valid = shown(LateVideo(way.frames, way.rate, late), record, start)
        assert valid == shown(way, record, start)[1]
        times = (start + late + np.arange(sum(valid)) / way.rate) % record.video.end
        apart = np.abs(np.array(values[: sum(valid)]) - np.floor(times * 10 + 1e-4)) % len(record.video)
        # A frame at the very seam may be the last or the first.
        assert set(apart.tolist()) <= {0.0, 1.0, len(record.video) - 1.0}


def test_one_picture_cannot_be_late():
    record = clip(1, 10.0)
    assert shown(LateVideo(3, 10.0, 0.5), record, 0.0) == shown(VideoSampling(3, 10.0), record, 0.0)


def test_misaligned_data_keep_sound_and_labels(several):
    experiment, _ = load(f"{several}:mbt")
    aligned, moved = (next(evaluation_batches(e.data, "test")[1]) for e in (experiment, misaligned(experiment, 0.2)))
    np.testing.assert_array_equal(moved.streams["audio"].values, aligned.streams["audio"].values)
    np.testing.assert_array_equal(moved.streams["video"].start, aligned.streams["video"].start)
    np.testing.assert_array_equal(moved.streams["video"].valid, aligned.streams["video"].valid)
    np.testing.assert_array_equal(moved.target["label"], aligned.target["label"])
    assert not np.array_equal(moved.streams["video"].values, aligned.streams["video"].values)


def test_conditions_that_cannot_be_asked_say_why():
    alone = Data("", 1, audio=AudioSampling(1))
    both = dataclasses.replace(alone, video=VideoSampling(1, 1.0))
    features = Data("", 1, features={"audio": SeriesSampling(1), "text": SeriesSampling(1)})
    assert reason_against("whole", alone) is None
    assert reason_against("without_video", alone) == "it takes audio alone"
    assert reason_against("misaligned", both) is None
    assert reason_against("misaligned", features) == "it takes features, not sound and pictures"
    assert reason_against("without_audio", features) is None
    assert reason_against("without_video", features) == "it takes no video"


def test_interval_covers_seeds_and_clips(rng):
    right = rng.random((3, 200)) < 0.7
    found = over_seeds([Measure.mean(row) for row in right])
    assert found.value == pytest.approx(right.mean())
    assert found.low < found.value < found.high
    assert over_seeds([Measure.mean(np.ones(5, bool))] * 2).plain() == {
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
        "count": 5,
    }
    # Seeds that disagree widen it: as many clips alone would give 0.2.
    apart = over_seeds([Measure.mean(np.full(100, right)) for right in (True, False)])
    assert (apart.low, apart.high) == (0.0, 1.0)


# ------------------------------------------------------------------------------------------------- costs


def macs(function, *shapes) -> int:
    return multiply_accumulates(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def test_products_and_convolutions_are_counted():
    assert macs(lambda a, b: a @ b, (3, 5), (5, 7)) == 3 * 5 * 7
    assert macs(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (2, 3, 5), (2, 5, 7)) == 2 * 3 * 5 * 7

    def convolve(groups):
        layout = ("NHWC", "HWIO", "NHWC")
        return lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    assert macs(convolve(1), (2, 8, 8, 4), (3, 3, 4, 6)) == 2 * 8 * 8 * 6 * 3 * 3 * 4
    assert macs(convolve(4), (2, 8, 8, 4), (3, 3, 1, 4)) == 2 * 8 * 8 * 4 * 3 * 3


def test_loops_are_counted_as_often_as_they_run():
    def recurrent(x, w):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=11)[0]

    assert macs(recurrent, (2, 4), (4, 4)) == 11 * 2 * 4 * 4
    assert macs(jax.jit(jax.checkpoint(recurrent)), (2, 4), (4, 4)) == 11 * 2 * 4 * 4
    assert macs(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), (2, 4), (4, 4)) == 2 * 4 * 4

    def unknown(x, w):
        return jax.lax.while_loop(lambda h: h.sum() > 0, lambda h: h @ w, x)

    with pytest.raises(Uncounted, match="unknown length"):
        macs(unknown, (2, 4), (4, 4))
    assert macs(lambda x: jax.lax.while_loop(lambda h: h.sum() > 0, lambda h: h - 1, x), (2,)) == 0


def test_energy_is_horowitz_s():
    """float32 in 45 nm: 3.7 pJ a multiplication, 0.9 pJ an addition."""
    assert pytest.approx(3.7 + 0.9) == PICOJOULES_A_MAC


def test_numbers_take_a_prefix():
    shown = [show.scaled(value) for value in (None, 0, 7, 1234567, 999_999)]
    assert shown == ["–", "0", "7", "1.23 M", "1 M"]
    assert [show.scaled(v, "J") for v in (2.3e-4, 4.6e-12)] == ["230 µJ", "4.6 pJ"]


# ------------------------------------------------------------------------------------------------- the outcome


def made(runs, **right) -> None:
    """What training and measuring leave."""
    for run in runs:
        Run.create(run.path, run.experiment, run.source)
        one = len(run.experiment.data.sampling) == 1
        conditions = {"right": {"whole": right[run.name]}, "reasons": {}, "head": "label"}
        conditions |= {"task": "classes", "metric": "accuracy", "conditions": list(CONDITIONS)}
        for name in ("without_audio", "without_video", "misaligned"):
            if one:
                conditions["reasons"][name] = "it takes audio alone"
            else:
                conditions["right"][name] = [0, 1, 0, 1]
        write_json(run.path / "conditions.json", conditions)
        found = {"parameters": 1000, "flops_per_clip": 2e6, "energy_joules_per_clip": 4.6e-6, "peak_bytes": 10**6}
        write_json(run.path / "costs.json", found)
        environment = {"devices": 1, "device": "cpu", "platform": "cpu", "cores": 2, "jax": "0"}
        results = {"steps": run.steps, "synthetic": True, "environment": environment}
        write_json(run.path / "results.json", results | {"speed": {"speed/step_seconds_p50": 0.25}})


def test_outcome_has_a_reason_for_every_null(several, tmp_path):
    runs = plan([str(several)], tmp_path, only=("mbt", "audio", "broken"))
    made([run for run in runs if run.name != "broken"], mbt=[1, 1, 1, 0], audio=[1, 0, 1, 0])
    failures = {run.path: "it does [not] fit" for run in runs if run.name == "broken"}
    found = json.loads(json.dumps(outcome(runs, failures, 0.5), allow_nan=False))
    assert (found["runs"], found["failed"], found["synthetic"], found["head"]) == (6, 2, True, "label")
    rows = found["experiments"]
    assert rows["mbt"]["accuracy"] == 0.75
    assert rows["mbt"]["accuracy_low"] <= 0.75 <= rows["mbt"]["accuracy_high"]
    assert rows["mbt"]["misaligned"] == 0.5
    assert rows["mbt"]["step_seconds"] == 0.25
    assert rows["broken"]["failed"] == 2
    for row in rows.values():
        for key, value in row.items():
            assert not isinstance(value, dict)
            assert value is not None or row[f"{key}_reason"]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(show.table(found))
    text = console.export_text()
    for word in ("SYNTHETIC DATA", "75.0", "2 failed", "seed 0: it does [not] fit", "1 MB", "4.6 µJ", "Not shared"):
        assert word in text
    show.plot(found, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    show.plot(found | {"experiments": {"broken": rows["broken"]}}, tmp_path / "empty.png")


def test_another_task_is_compared_by_its_own_metric(several, tmp_path, rng):
    """Errors, of which less is better, and a stream of another name; intervals over seeds and clips."""
    runs = plan([str(several)], tmp_path, only=("mbt", "late"))
    made(runs, mbt=[], late=[])
    y = rng.normal(size=(30, 1))
    for run in runs:
        error = 0.1 if run.name == "late" else 0.3
        given = {"task": "sentiment", "metric": "mae", "head": "values", "right": {}, "reasons": {}}
        given |= {"conditions": [*CONDITIONS, "without_text"], "reasons": {"misaligned": "it takes features"}}
        write_json(run.path / "conditions.json", given)
        description = Description("made", SCHEMA, {}, {}, None, None, True, "", {}, {}, {})
        write_json(run.path / "dataset.json", dataclasses.asdict(description))
        for condition in ("whole", "without_audio", "without_video", "without_text"):
            seen = Predictions(
                {"values": y + error * (1 if condition == "whole" else 2)}, {"values": y}, np.arange(30), {}, {}
            )
            write_predictions(run.path, f"test-{condition}", seen.arrays())
    found = json.loads(json.dumps(outcome(runs, {}, 0.5), allow_nan=False))
    assert (found["metric"], found["higher_is_better"], found["head"]) == ("mae", False, "values")
    row = found["experiments"]["late"]
    assert row["mae"] == pytest.approx(0.1)
    assert row["without_audio"] == pytest.approx(0.2)
    assert row["misaligned_reason"] == "it takes features"
    assert row["without_text_reason"] == "it takes no text"
    assert [name for name, _ in show.ordered(found)] == ["late", "mbt"]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(show.table(found))
    text = console.export_text()
    assert "MAE" in text
    assert "0.100 (0.10–0.10)" in text
    show.plot(found, tmp_path / "comparison.png")
    write_json(runs[0].path / "conditions.json", given | {"task": "series", "metric": "ccc"})
    with pytest.raises(RunError, match="they cannot be compared"):
        outcome(runs, {}, 0.5)


def test_flags_of_training_are_for_experiments(tmp_path, capsys):
    assert main(["compare", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds is for experiments" in capsys.readouterr().err


def test_the_error_is_found_in_what_was_said():
    said = "Traceback ...\n  File x\njax.errors.OutOfMemoryError: too much\n  of it\n-----\nFor simplicity, JAX ...\n"
    assert error_in(said) == "jax.errors.OutOfMemoryError: too much"
    assert error_in("python -m avjax.cli\navjax: there is no such file\n") == "avjax: there is no such file"
    assert error_in("python -m avjax.cli\nKilled\n") == "Killed"


# ------------------------------------------------------------------------------------------------- the whole command


@pytest.mark.slow
def test_compare_goes_on_counts_failures_and_does_nothing_twice(several, tmp_path):
    """One seed of three systems and one that is broken; ended in the middle, then given again."""
    commands, out = Commands(tmp_path), tmp_path / "out"
    words = ("compare", several, "--out", out, "--seeds", 0, "--misaligned", 0.2, "--json")
    run = out / "late" / "seed-0"
    with commands.start(*words, "--steps", 8) as child:
        until(lambda: (run / "metrics.jsonl").exists(), child)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 130
    assert (out / "mbt" / "seed-0" / "conditions.json").exists()
    assert not (out / "audio").exists()

    ended = commands.run(*words, "--steps", 8, status=1)
    found = json.loads(ended.stdout)
    assert found == json.loads((out / "comparison.json").read_text())
    assert (out / "comparison.png").exists()
    assert (found["runs"], found["failed"], found["synthetic"]) == (4, 1, True)
    assert "broken" in ended.stderr
    rows = found["experiments"]
    assert "Error: " in rows["broken"]["failures"][0]
    assert rows["broken"]["accuracy"] is None
    for name in ("mbt", "late"):
        for key in ("accuracy", "without_audio", "without_video", "misaligned"):
            assert 0 <= rows[name][f"{key}_low"] <= rows[name][key] <= rows[name][f"{key}_high"] <= 1
    assert rows["audio"]["without_video_reason"] == "it takes audio alone"
    for name in ("mbt", "late", "audio"):
        assert rows[name]["seeds"] == [0]
        assert rows[name]["clips"] == 10
        assert rows[name]["parameters"] > 1000
        assert rows[name]["energy_joules_per_clip"] == pytest.approx(2.3e-12 * rows[name]["flops_per_clip"])
        assert rows[name]["peak_bytes"] > 4 * rows[name]["parameters"]
        assert rows[name]["step_seconds"] > 0
        assert finished(out / name / "seed-0")[-1] == 8
    whole = Run.open(run).results()["test"]["metrics"]["label"]["accuracy"]["value"]
    assert rows["late"]["accuracy"] == pytest.approx(whole)

    files = [file for name in ("mbt", "late", "audio") for file in (out / name).rglob("*") if file.is_file()]
    before = {file: file.stat().st_mtime_ns for file in files}
    again = json.loads(commands.run(*words, "--steps", 8, status=1).stdout)
    assert again["experiments"] == rows
    assert {file: file.stat().st_mtime_ns for file in files} == before

    # Another budget is other runs, and is told so.
    other = commands.run(*words, "--steps", 9, "--only", "audio", status=1)
    assert "training.steps was 8 and is 9" in other.stderr
