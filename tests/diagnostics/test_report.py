"""The report and the comparison of runs: numbers, names, labels, what is missing, and how the page behaves."""

from __future__ import annotations

import dataclasses
import datetime
import html.parser
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from avjax.data.media import Frames, Waveform
from avjax.data.records import SCHEMA, Audio, Description, Record, Records, Video, encode_record, write_shard
from avjax.diagnostics import report
from avjax.diagnostics.summary import read_runs
from avjax.training.evaluate import Predictions
from avjax.training.metrics.tasks import TASKS
from tests.diagnostics.browser import layout

DATE = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
CLASSES = ("happy", "sad", "angry")
RATE = 16_000
CEILINGS = {"test": {"audio": 0.515, "video": 0.525, "both": 0.985}, "expected": {"both": 0.2}}


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: its elements and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.title, self.style, self.text = "", "", ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "style":
            self.style += data
        else:
            self.text += data
            if self._open == "title":
                self.title += data

    def having(self, word: str) -> list[dict[str, str]]:
        """Attributes of the elements of this class."""
        return [attributes for _, attributes in self.tags if word in attributes.get("class", "").split()]


def make_records(path: Path, rng: np.random.Generator, *, classes: tuple[str, ...] = CLASSES, count: int = 24,
                 synthetic: bool = False, name: str = "clip-{}", channels: int = 3, lacking: bool = False,
                 frames: int = 8) -> Path:  # fmt: skip
    """A prepared folder with a test split of tones and noise."""
    path.mkdir(parents=True)
    records = []
    for k in range(count):
        wave = np.sin(2 * np.pi * 440 * (1 + k % 3) * np.arange(RATE // 2) / RATE) * 9000
        images = rng.integers(0, 256, (frames, 20, 16, channels), dtype=np.uint8)
        audio = Audio.encode(Waveform((wave + rng.normal(0, 9, len(wave))).astype(np.int16), RATE))
        video = Video.encode(Frames(images, np.arange(frames) / 16.0), "raw")
        if lacking:
            audio, video = (audio, None) if k % 2 else (None, video)
        label = {"emotion": k % len(classes)}
        records.append(Record(name.format(k), "test", "someone", label, {}, audio, video))
    file = path / "test-00000-of-00001.arrayrecord"
    write_shard(file, [encode_record(record) for record in records])
    shard = {"file": file.name, "records": count, "bytes": file.stat().st_size}
    video_facts = {"height": 20, "width": 16, "channels": channels, "rate": 16.0, "uniform": True}
    description = Description(
        "fake", SCHEMA, {"emotion": list(classes)}, {"test": count}, {"rate": RATE}, video_facts, synthetic,
        "CC BY 4.0 <ours>", {"ceilings": CEILINGS}, {}, {"test": [shard]},
    )  # fmt: skip
    (path / "dataset.json").write_text(json.dumps(dataclasses.asdict(description)))
    return path


def make_run(path: Path, rng: np.random.Generator, records: Path, *, classes: int = len(CLASSES), count: int = 24,
             sharpness: float = 1.5, multi_label: bool = False,
             modalities: tuple[str, ...] = ("audio", "video")) -> Path:  # fmt: skip
    """A run directory as training leaves it."""
    (path / "predictions").mkdir(parents=True)
    target = np.eye(classes, dtype=np.float32)[np.arange(count) % classes]
    if multi_label:
        target = np.maximum(target, np.roll(target, 1, axis=1))
    heads = ("emotion", "emotion/audio", "emotion/video") if len(modalities) > 1 else ("emotion",)
    logits = {head: rng.normal(size=target.shape) + sharpness * target for head in heads}
    found = {head: np.exp(values) for head, values in logits.items()}
    probabilities = {head: (v / v.sum(1, keepdims=True)).astype(np.float32) for head, v in found.items()}
    seen = Predictions(probabilities, {"emotion": target}, np.arange(count, dtype=np.int32), {}, {})
    np.savez(path / "predictions" / "test.npz", **seen.arrays())
    metrics = seen.metrics(TASKS["labels" if multi_label else "classes"], Records(records).description, samples=50)
    plain = {head: {name: e.plain() for name, e in estimates.items()} for head, estimates in metrics.items()}
    results = {
        "steps": 300, "seed": int(rng.integers(90, 99)), "seconds": float(rng.uniform(3, 50)),
        "speed": {"speed/clips_per_second": float(rng.uniform(100, 999))}, "test": {"metrics": plain, "losses": {}},
    }  # fmt: skip
    (path / "results.json").write_text(json.dumps(results))
    data = {"records": str(records), **{m: {"rate": 1} if m in modalities else None for m in ("audio", "video")}}
    (path / "config.json").write_text(json.dumps({"data": data}))
    (path / "command.json").write_text(json.dumps({"experiment": "some.py", "words": ["--name", "two words"]}))
    lines = [{"step": s, "train/loss": 2.0 / s, "validation/emotion/accuracy": s / 300} for s in (100, 200, 100, 300)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4')
    return path


def make_average(path: Path, origins: list[Path]) -> Path:
    """A plain folder as averaging leaves it."""
    (path / "predictions").mkdir(parents=True)
    results = json.loads((origins[0] / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({"averaged": [str(p) for p in origins], "test": results["test"]}))
    shutil.copy(origins[0] / "predictions" / "test.npz", path / "predictions" / "test.npz")
    return path


@pytest.fixture
def two(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    """Two runs over the same real (not synthetic) records."""
    records = make_records(tmp_path / "records", rng)
    return [
        make_run(tmp_path / "both", rng, records),
        make_run(tmp_path / "heard", rng, records, modalities=("audio",), sharpness=0.5),
    ]


def write(runs: list[Path], out: Path, **options: Any) -> Page:
    return Page(report.write_report(runs, out, date=DATE, **options).read_text(encoding="utf-8"))


def estimates(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())["test"]["metrics"]


# ------------------------------------------------------------------------------------------------- numbers


def test_compare_tells_what_results_json_holds(two: list[Path]) -> None:
    compared = json.loads(json.dumps(report.compare(two), allow_nan=False))
    assert list(compared) == ["both", "heard"]
    for run in two:
        entry, results = compared[run.name], json.loads((run / "results.json").read_text())
        assert entry["heads"] == results["test"]["metrics"]
        assert {m: entry[m] for m in ("accuracy", "uar", "macro_f1")} == results["test"]["metrics"]["emotion"]
        assert (entry["seed"], entry["steps"]) == (results["seed"], 300)
        assert entry["seconds"] == results["seconds"]
        assert entry["clips_per_second"] == results["speed"]["speed/clips_per_second"]
        assert entry["synthetic"] is False
    assert compared["both"]["ceiling"] == 0.985
    assert compared["heard"]["ceiling"] == 0.515


def test_every_number_stands_in_the_page_and_in_the_table(two: list[Path], tmp_path: Path) -> None:
    page = write(two, tmp_path / "report.html", title="The title", notes=["A note."])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(report.compare(two)))
    terminal = console.export_text()
    for run in two:
        for head, found in estimates(run).items():
            assert head in page.text
            for estimate in found.values():
                assert f"{100 * estimate['value']:.1f}" in page.text
                assert f"{100 * estimate['low']:.1f} – {100 * estimate['high']:.1f}" in page.text
                assert f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.0f}–" in terminal
        assert str(json.loads((run / "results.json").read_text())["seed"]) in page.text
    command = "avjax train some.py --name 'two words'"
    for text in ("The title", "A note.", "98.5", "51.5", command, "2026-01-02 03:04 UTC", "CC BY 4.0 <ours>"):
        assert text in page.text
    assert page.title == "The title"


def test_confusion_counts_are_the_predictions(two: list[Path], tmp_path: Path) -> None:
    page = write(two[:1], tmp_path / "report.html")
    with np.load(two[0] / "predictions" / "test.npz") as arrays:
        said = arrays["predicted:emotion"].argmax(1)
        true = arrays["target:emotion"].argmax(1)
    cells = [a["title"] for tag, a in page.tags if tag == "td" and ", predicted " in a.get("title", "")]
    expected = [
        f"{CLASSES[t]}, predicted {CLASSES[p]}: {sum((true == t) & (said == p))} of {sum(true == t)}"
        for t in range(3)
        for p in range(3)
    ]
    assert cells == expected


def test_many_classes_are_told_as_mistakes(tmp_path: Path, rng: np.random.Generator) -> None:
    names = tuple(f"class-{k:02d}-name" for k in range(30))
    records = make_records(tmp_path / "records", rng, classes=names, count=60)
    run = make_run(tmp_path / "many", rng, records, classes=30, count=60, sharpness=0.2)
    page = write([run], tmp_path / "report.html")
    assert "30 classes are too many" in page.text
    assert not page.having("confusion")


def test_several_labels_a_clip_show_map_and_no_matrix(tmp_path: Path, rng: np.random.Generator) -> None:
    run = make_run(tmp_path / "tags", rng, make_records(tmp_path / "records", rng), multi_label=True)
    page = write([run], tmp_path / "report.html")
    assert f"{100 * estimates(run)['emotion']['map']['value']:.1f}" in page.text
    assert "several labels" in page.text
    assert "Accuracy" not in page.text


# ------------------------------------------------------------------------------------------------- labels and names


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_labelled_wherever_results_stand(
    synthetic: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    run = make_run(tmp_path / "run", rng, make_records(tmp_path / "records", rng, synthetic=synthetic))
    page = write([run], tmp_path / "report.html", title="Runs")
    captions = len(page.having("caption")) + sum(tag == "figcaption" for tag, _ in page.tags)
    assert captions >= 5
    # Besides every caption: the head of the page and the corpus.
    assert len(page.having("badge")) == (captions + 2 if synthetic else 0)
    assert page.title == ("SYNTHETIC DATA · Runs" if synthetic else "Runs")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table(report.compare([run])))
    assert ("SYNTHETIC DATA" in console.export_text()) == synthetic


def test_names_are_escaped(tmp_path: Path, rng: np.random.Generator) -> None:
    classes = ('<script>alert("1")</script>', "a&amp;b", "{{ 7 * 7 }}")
    records = make_records(tmp_path / "records", rng, classes=classes, name='<img src=x onerror="go()">-{}')
    run = make_run(tmp_path / "<b>&'run'", rng, records)
    page = write([run], tmp_path / "report.html", title="<u>title</u>", notes=["<i>note</i>"])
    assert not {"script", "u", "i"} & {tag for tag, attributes in page.tags if not attributes}
    assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for text in (*classes, "<b>&'run'", "<u>title</u>", "<i>note</i>", '<img src=x onerror="go()">-'):
        assert text in page.text
    Console(file=io.StringIO()).print(report.table(report.compare([run, tmp_path / "[/red] none"])))


def test_runs_of_one_name_are_told_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    records = make_records(tmp_path / "records", rng)
    runs = [make_run(tmp_path / seed / "mbt", rng, records) for seed in ("one", "two")]
    assert list(report.compare(runs)) == ["one/mbt", "two/mbt"]
    assert len(report.compare([*runs, runs[0]])) == 3


# ------------------------------------------------------------------------------------------------- what is missing


def test_runs_without_results_are_listed_with_the_reason(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text(json.dumps({"validation": {"metrics": estimates(two[0])}}))
    bad = [tmp_path / name for name in ("nowhere", "empty", "file", "other")]
    page = write([*bad, *two], tmp_path / "report.html")
    compared = report.compare([*bad, *two])
    for path in bad:
        assert compared[path.name]["missing"]
        assert f"{path.name}: {compared[path.name]['missing']}" in page.text
    assert "results on validation alone" in compared["other"]["missing"]
    assert "missing" not in compared["both"]
    assert "There is no run to show" in write(bad, tmp_path / "none.html").text
    assert "There is no run to show" in write([], tmp_path / "none.html").text


FILES = ("results.json", "config.json", "command.json", "metrics.jsonl", "predictions/test.npz",
         "../records/dataset.json", "../records/test-00000-of-00001.arrayrecord")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_never_stop_a_report(
    name: str, two: list[Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    file = two[0] / name
    whole = file.read_bytes()
    cut = whole[: int(rng.integers(1, len(whole)))]
    for damaged in (cut, b"\xff\x00{[", b'{"test": 3, "data": [], "words": 1, "experiment": null}'):
        file.write_bytes(damaged)
        summary = read_runs(two)[0]
        json.dumps(report.compare(two), allow_nan=False)
        # Only the log may be cut without a word: its last line is half written in every run that was killed.
        told = summary.missing or summary.remarks or name == "metrics.jsonl" or summary.records is None
        assert told or (name == "command.json" and not summary.command)
    file.write_bytes(cut)
    assert report.write_report(two, tmp_path / "report.html", date=DATE).stat().st_size


def test_what_is_not_finite_is_a_dash(two: list[Path], tmp_path: Path) -> None:
    results = json.loads((two[0] / "results.json").read_text())
    results["test"]["metrics"]["emotion"]["uar"]["value"] = float("nan")
    results["test"]["metrics"]["emotion"]["accuracy"]["low"] = float("inf")
    results |= {"seconds": float("nan"), "seed": None}
    (two[0] / "results.json").write_text(json.dumps(results))
    with (two[0] / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 400, "train/loss": NaN}\n')
    with np.load(two[1] / "predictions" / "test.npz") as arrays:
        spoiled = dict(arrays)
    spoiled["predicted:emotion"][3, 1] = np.nan
    np.savez(two[1] / "predictions" / "test.npz", **spoiled)
    entry = report.compare(two)["both"]
    json.dumps(entry, allow_nan=False)
    assert "uar" not in entry
    assert entry["accuracy"]["low"] is None
    assert entry["seconds"] is None
    page = write(two, tmp_path / "report.html")
    assert not re.search(r"\b(nan|inf|none)\b", page.text.replace("Acceleratorsnone", ""), re.IGNORECASE)
    assert "not all finite" in page.text


def test_an_average_is_shown_like_a_run(two: list[Path], tmp_path: Path) -> None:
    folder = make_average(tmp_path / "late_averaged", two)
    page = write([*two, folder], tmp_path / "report.html")
    entry = report.compare([folder])["late_averaged"]
    assert (entry["ceiling"], entry["seed"], entry["seconds"]) == (0.985, None, None)
    assert entry["synthetic"] is False
    assert "mean of the probabilities of both, heard" in page.text
    assert len(page.having("confusion")) == 3


def test_clips_without_sound_or_picture_say_so(tmp_path: Path, rng: np.random.Generator) -> None:
    run = make_run(tmp_path / "run", rng, make_records(tmp_path / "records", rng, lacking=True))
    text = write([run], tmp_path / "report.html").text
    clips = [int(number) for number in re.findall(r"clip-(\d+)", text)]
    assert text.count("no picture") == sum(k % 2 for k in clips)
    assert text.count("no sound") == sum(k % 2 == 0 for k in clips)


# ------------------------------------------------------------------------------------------------- one file


def test_the_page_loads_nothing(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    page = write(two, out)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "video"}
    loads = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "data") if key in a]
    assert len(loads) > 12
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    inline = " ".join(attributes.get("style", "") for _, attributes in page.tags)
    assert "@import" not in page.style
    assert not re.findall(r"url\((?!#)", page.style + inline)
    assert [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"] == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ]
    assert out.stat().st_size < 5e6
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


def test_equal_runs_give_equal_bytes(two: list[Path], tmp_path: Path) -> None:
    first = report.write_report(two, tmp_path / "a.html", date=DATE).read_bytes()
    assert report.write_report(two, tmp_path / "b.html", date=DATE).read_bytes() == first


def test_ids_are_unique_and_pictures_have_words(two: list[Path], tmp_path: Path) -> None:
    page = write(two, tmp_path / "report.html")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    pictured = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictured) > 5
    assert all(attributes.get("aria-label") for attributes in pictured)


# ------------------------------------------------------------------------------------------------- choice and curves


def test_the_clips_chosen_are_right_and_wrong(rng: np.random.Generator) -> None:
    scores = rng.dirichlet(np.ones(5), 200)
    target = np.eye(5)[rng.integers(0, 5, 200)]
    right, wrong = report.choose(scores, target, 3)
    hit = scores.argmax(1) == target.argmax(1)
    assert hit[right].all()
    assert not hit[wrong].any()
    assert len({int(target[k].argmax()) for k in right}) == len({int(target[k].argmax()) for k in wrong}) == 3
    assert scores[wrong[0]].max() == scores[~hit].max()
    assert report.choose(np.eye(3), np.eye(3), 5) == ([0, 1, 2], [])


def test_a_step_logged_twice_counts_once(two: list[Path]) -> None:
    steps, values = read_runs(two)[0].curve("train/loss")
    assert (steps, values) == ([100, 200, 300], [2 / 100, 2 / 200, 2 / 300])


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_no_width_scrolls_sideways(long: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    classes = ("a" * 60, "b c " * 20, *(f"class{k}" for k in range(8))) if long else CLASSES
    name = ("w" * 80 + "-{}") if long else "clip-{}"
    records = make_records(tmp_path / ("r" * 90 if long else "records"), rng, classes=classes, name=name, count=30)
    runs = [
        make_run(tmp_path / ("x" * 70 + str(k) if long else f"run{k}"), rng, records, classes=len(classes), count=30)
        for k in range(4)
    ]
    out = report.write_report(runs, tmp_path / "report.html", title="T" * 90 if long else "Runs")
    found = layout(out)
    assert list(found) == [360, 390, 768, 1440]
    for width, seen in found.items():
        assert seen["tables"] == 5
        assert seen["height"] > 2000
        assert not seen["out"], f"wider than {width} px: {seen['out'][:5]}"
        assert seen["width"] <= width
