"""Prepare: every clip kept or reported, whatever happens to files, workers, run or disk; the same bytes each time."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from avjax.data import media, prepare_pool
from avjax.data.corpora import SPLITS, Clip
from avjax.data.media import Frames, Waveform
from avjax.data.prepare import PrepareError, prepare
from avjax.data.records import Records, verify
from tests.fixtures import damage
from tests.levels import in_short

COUNT = 12


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Every file of a folder, in order of name; or clips handed in."""

    flavour: str = "plain"
    given: tuple[Clip, ...] = ()
    name: ClassVar[str] = "toy"
    synthetic: ClassVar[bool] = True
    licence: ClassVar[str] = "CC0"

    @property
    def classes(self) -> dict[str, list[str]]:
        return {"parity": ["even", "odd"]}

    def strangers(self, root: Path) -> list[tuple[Path, str]]:
        return [(root / "notes.mp4", "no clip, says the corpus")]

    def clips(self, root: Path) -> list[Clip]:
        paths = sorted(path for path in root.iterdir() if path.name != "script.py")
        return list(self.given) or [
            Clip(path.name, path, path, {"parity": place % 2}, f"g{place % 3}", SPLITS[place % 3], {"place": place / 7})
            for place, path in enumerate(paths)
        ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good clips, and one bad file among them."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(COUNT):
        images = np.stack([damage.draw(number + place, 32, 48) for place in range(4 + number % 3)])
        sound = np.full(2_000 + number, number, np.int16)
        media.encode(folder / f"{number:02d}.mp4", Frames(images, np.arange(len(images)) / 25), Waveform(sound, 16_000))
    (folder / "05.mp4").write_text("no video")
    return folder


def run(root, out, corpus=None, **settings):
    settings = {"workers": 2, "clips_per_shard": 2, "progress": False, **settings}
    return prepare(corpus or Corpus(), root, out, **settings)


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.suffix == ".arrayrecord" or path.name == "dataset.json"
    }


def worker(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Replaces the worker program by one that first runs ``body``."""
    script = folder / "worker.py"
    script.write_text(f"import os, resource, signal, sys, time\nfrom avjax.data import media, prepare_worker\n{body}\n"
                      "prepare_worker.main(int(sys.argv[1]))\n")  # fmt: skip
    monkeypatch.setattr(prepare_pool, "COMMAND", (sys.executable, str(script)))


ON_DECODE = """
decode = media.decode
def replaced(path, **settings):
    if os.path.basename(path) == "07.mp4":
        {act}
    return decode(path, **settings)
media.decode = replaced
"""


def test_every_clip_is_kept_or_reported(root, tmp_path):
    report = run(root, tmp_path)
    assert sum(report.counts.values()) == COUNT - 1
    assert [entry["name"] for entry in report.bad] == ["05.mp4"]
    assert "not a media file" in report.bad[0]["reason"]
    records = Records(tmp_path)
    assert records.description.counts == report.counts
    assert records.description.audio == {"rate": 16_000}
    assert records.description.video == {"height": 32, "width": 48, "channels": 3, "rate": 25.0, "uniform": True}
    seen = 0
    for split in SPLITS:
        for record in records.split(split):
            number = int(record.name[:2])
            assert record.split == split
            assert record.labels == {"parity": number % 2}
            assert record.cues == {"place": number / 7}
            assert record.provenance["video"]["source"] == f"{number:02d}.mp4"
            assert record.audio.samples == 2_000 + number
            assert [damage.number_of(image) for image in record.video.read()] == [
                number + at for at in range(4 + number % 3)
            ]
            seen += 1
    assert seen == COUNT - 1
    assert verify(tmp_path) == []


def test_report_is_text_and_json(root, tmp_path):
    report = run(root, tmp_path)
    text, fields = (tmp_path / "report.txt").read_text(), json.loads((tmp_path / "report.json").read_text())
    assert "SYNTHETIC" in text
    assert "05.mp4 (05.mp4): not a media file" in text
    assert "notes.mp4: no clip, says the corpus" in text
    assert fields["strangers"] == [{"file": "notes.mp4", "reason": "no clip, says the corpus"}]
    assert fields["counts"] == report.counts
    assert fields["classes"]["parity"]["odd"] == {"train": 2, "validation": 2, "test": 1}
    assert fields["seconds"]["train"]["audio"] == pytest.approx((4 * 2_000 + 0 + 3 + 6 + 9) / 16_000)
    assert fields["seconds"]["train"]["video"] == pytest.approx((4 + 4 + 4 + 4) / 25)
    assert fields["cpu_seconds"].keys() == {"decode", "encode", "write"}


def test_bytes_depend_on_the_corpus_alone(root, tmp_path):
    run(root, tmp_path / "one", workers=1)
    run(root, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert Records(tmp_path / "one").fingerprint == Records(tmp_path / "three").fingerprint


def test_finished_shards_are_not_redone(root, tmp_path):
    assert run(root, tmp_path).shards_written == 6
    before = contents(tmp_path)
    assert run(root, tmp_path).shards_written == 0
    (tmp_path / "train-00001-of-00002.arrayrecord").unlink()
    (tmp_path / "test-00000-of-00002.arrayrecord").write_bytes(b"cut")
    assert run(root, tmp_path).shards_written == 2
    assert contents(tmp_path) == before


def test_other_settings_need_overwrite(root, tmp_path):
    run(root, tmp_path)
    with pytest.raises(ValueError, match=r"different: settings.*overwrite"):
        run(root, tmp_path, size=(16, 16))
    with pytest.raises(ValueError, match="different: corpus"):
        run(root, tmp_path, Corpus("other"))
    (tmp_path / "notes.txt").write_text("mine")
    run(root, tmp_path, size=(16, 16), clips_per_shard=20, overwrite=True)
    assert Records(tmp_path).description.video["height"] == 16
    assert len(list(tmp_path.glob("*.arrayrecord"))) == 3
    assert (tmp_path / "notes.txt").exists()


def test_a_changed_file_is_noticed(root, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").write_bytes((root / "00.mp4").read_bytes())
    run(source, tmp_path / "out")
    (source / "a.mp4").write_bytes((root / "01.mp4").read_bytes())
    with pytest.raises(ValueError, match="different: clips"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("codecs", [("raw", "flac"), ("h264", "pcm16")])
def test_codecs(root, tmp_path, codecs):
    run(root, tmp_path, video_codec=codecs[0], audio_codec=codecs[1])
    record = Records(tmp_path).split("train")[2]
    whole = media.decode(root / record.name)
    assert (record.video.codec, record.audio.codec) == codecs
    np.testing.assert_array_equal(record.video.read(), whole.video.images)
    np.testing.assert_array_equal(record.audio.read(), whole.audio.samples)
    assert verify(tmp_path) == []


def test_arrays_and_missing_modalities(root, tmp_path, rng):
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    frames, sound = Frames(images, np.arange(3) / 10), Waveform(rng.integers(-99, 99, 800).astype(np.int16), 8_000)
    clips = (
        Clip("both", sound, frames, {"parity": 0}, "a", "train"),
        Clip("silent", None, frames, {"parity": 0}, "a", "train"),
        Clip("unseen", root / "03.mp4", None, {"parity": 1}, "b", "test"),
        Clip("paired", root / "03.mp4", root / "04.mp4", {"parity": 1}, "b", "test"),
        Clip("nothing", None, None, {"parity": 1}, "b", "test"),
    )
    report = run(root, tmp_path, Corpus(given=clips), video_codec="raw")
    assert report.missing == {"audio": ["silent"], "video": ["unseen"]}
    assert [entry["name"] for entry in report.bad] == ["nothing"]
    train, test = Records(tmp_path).split("train"), Records(tmp_path).split("test")
    np.testing.assert_array_equal(train[0].video.read(), images)
    assert train[0].audio.samples == 1_600
    assert train[1].audio is None
    assert test[0].video is None
    assert test[1].audio.samples == 2_003
    assert damage.number_of(test[1].video.read([0])[0]) == 4
    assert "Frames differ in size" in report.text()


def test_odd_and_damaged_files(tmp_path, rng):
    """None stops the run, and no good one is lost."""
    (tmp_path / "in").mkdir()
    cases = damage.make(tmp_path / "in", rng)
    clips = tuple(Clip(case.path.name, case.path, case.path, {"parity": 0}, "g", "train") for case in cases)
    report = run(tmp_path / "in", tmp_path / "out", Corpus(given=clips), clips_per_shard=30, size=(24, 32))
    split = Records(tmp_path / "out").split("train")
    kept, bad = {record.name for record in split}, {entry["name"] for entry in report.bad}
    assert kept | bad == {clip.name for clip in clips}
    assert not kept & bad
    assert {case.path.name for case in cases if case.expect == "whole"} <= kept
    assert {case.path.name for case in cases if case.expect == "bad"} <= bad
    assert all(len(entry["reason"]) > 8 for entry in report.bad)
    assert not {warning["name"] for warning in report.warnings} & {
        case.path.name for case in cases if case.expect == "whole"
    }


def test_a_worker_killed_once_loses_nothing(root, tmp_path, monkeypatch):
    flag = tmp_path / "killed"
    act = (
        f"if not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    worker(monkeypatch, tmp_path, ON_DECODE.format(act=act))
    report = run(root, tmp_path / "out")
    assert flag.exists()
    assert [entry["name"] for entry in report.bad] == ["05.mp4"]
    monkeypatch.undo()
    run(root, tmp_path / "calm")
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_file_that_kills_its_worker_is_reported(root, tmp_path, monkeypatch):
    worker(monkeypatch, tmp_path, ON_DECODE.format(act="os.kill(os.getpid(), signal.SIGSEGV)"))
    report = run(root, tmp_path / "out")
    reasons = {entry["name"]: entry["reason"] for entry in report.bad}
    assert reasons.keys() == {"05.mp4", "07.mp4"}
    assert "two worker processes ended on it (signal SIGSEGV)" in reasons["07.mp4"]
    assert sum(report.counts.values()) == COUNT - 2


@pytest.mark.slow
@pytest.mark.alone
def test_a_file_that_hangs_is_reported(root, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_pool, "GRACE_SECONDS", 1.0)
    worker(monkeypatch, tmp_path, ON_DECODE.format(act="time.sleep(600)"))
    report = run(root, tmp_path / "out", limit_seconds=0.5)
    reasons = {entry["name"]: entry["reason"] for entry in report.bad}
    assert reasons.keys() == {"05.mp4", "07.mp4"}
    assert "not decoded within 0.5 s" in reasons["07.mp4"]


@pytest.mark.slow
@pytest.mark.alone
def test_workers_that_cannot_start(root, tmp_path, monkeypatch):
    worker(monkeypatch, tmp_path, "sys.exit(3)")
    with pytest.raises(PrepareError, match=r"three worker processes ended \(exit status 3\)"):
        run(root, tmp_path / "out")


def test_a_full_disk(root, tmp_path, monkeypatch):
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))"
    worker(monkeypatch, tmp_path, limit)
    with pytest.raises(PrepareError, match=r"cannot be written.*MiB free.*run the same command again"):
        run(root, tmp_path / "out", video_codec="raw", size=(200, 200))
    assert not list((tmp_path / "out").glob(".*.part"))
    monkeypatch.undo()
    assert run(root, tmp_path / "out", video_codec="raw", size=(200, 200)).shards_written > 0


SCRIPT = """
import os, signal, sys
from pathlib import Path
# As in a terminal, even where whoever runs the tests ignores the signal, as a shell's background jobs do.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from test_prepare_corpus import Corpus
from avjax.data import prepare_pool
from avjax.data.prepare import prepare
prepare_pool.COMMAND = (sys.executable, {worker!r})
prepare(Corpus(), {root!r}, {out!r}, workers=2, clips_per_shard=2, progress=False)
"""

SLOW = """
decode = media.decode
def replaced(path, **settings):
    time.sleep(0.2)
    return decode(path, **settings)
media.decode = replaced
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("how", in_short((signal.SIGINT, signal.SIGKILL), (signal.SIGKILL,)))
def test_a_stopped_run_goes_on(root, tmp_path, monkeypatch, how):
    worker(monkeypatch, tmp_path, SLOW)
    # The corpus as a module of its own: this file imports pytest, and its shape checks, which a user's has not.
    source = Path(__file__).read_text()
    begin, end = source.index("@dataclasses.dataclass"), source.index("@pytest.fixture")
    header = "import dataclasses\nfrom pathlib import Path\nfrom typing import ClassVar\n"
    header += "from avjax.data.corpora import SPLITS, Clip\n"
    (tmp_path / "test_prepare_corpus.py").write_text(header + source[begin:end])
    out = tmp_path / "out"
    (tmp_path / "run.py").write_text(
        SCRIPT.format(tests=str(tmp_path), worker=str(tmp_path / "worker.py"), root=str(root), out=str(out))
    )
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], stderr=subprocess.PIPE)
    try:
        while not list((out / "plan").glob("*.arrayrecord.json")):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        children = _children(process.pid)
        process.send_signal(how)
        assert process.wait(timeout=20) != 0
    finally:
        process.kill()
        process.stderr.close()
    assert children
    deadline = time.monotonic() + 10
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)
    if how == signal.SIGINT:
        assert not list(out.glob(".*.part"))
    assert not (out / "dataset.json").exists()
    monkeypatch.undo()
    assert 0 < run(root, out).shards_written < 6
    run(root, tmp_path / "calm")
    assert contents(out) == contents(tmp_path / "calm")
    assert not list(out.glob(".*.part"))


def _children(parent: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _stat(int(path.name))[1:2] == [str(parent)]
    ]


def _stat(process: int) -> list[str]:
    """State and parent of a process; nothing where it has gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except OSError:
        return []


def _alive(process: int) -> bool:
    return _stat(process)[:1] not in ([], ["Z"])


def test_two_at_once(root, tmp_path):
    (tmp_path / "plan").mkdir()
    with (tmp_path / "plan" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PrepareError, match="another"):
            run(root, tmp_path)


def test_nothing_decodes(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_text("no video")
    with pytest.raises(PrepareError, match=r"none of the 1 clips could be decoded.*a.mp4: not a media file"):
        run(tmp_path / "in", tmp_path / "out")
    assert "a.mp4" in (tmp_path / "out" / "report.txt").read_text()


def test_what_cannot_be(root, tmp_path):
    good = Clip("a", root / "00.mp4", None, {"parity": 0}, "g", "train")
    refused = {
        "names 2 clips 'a'": (good, good),
        "splits are train": (dataclasses.replace(good, split="dev"),),
        "is in splits": (good, dataclasses.replace(good, name="b", split="test")),
        "label parity=2": (dataclasses.replace(good, labels={"parity": 2}),),
        "label parity=.1, 2.": (dataclasses.replace(good, labels={"parity": (1, 2)}),),
        "labels for .., not for .'parity'.": (dataclasses.replace(good, labels={}),),
    }
    for message, clips in refused.items():
        with pytest.raises(ValueError, match=message):
            run(root, tmp_path, Corpus(given=clips))
    for message, settings in {
        "video codec 'gif'": {"video_codec": "gif"},
        "audio codec 'mp3'": {"audio_codec": "mp3"},
        "keeps the file's own frames": {"video_codec": "h264", "size": (8, 8)},
        "1 .best. to 31": {"quality": 0},
        "must be positive": {"limit_seconds": 0.0},
    }.items():
        with pytest.raises(ValueError, match=message):
            run(root, tmp_path, **settings)
    with pytest.raises(ValueError, match="is no folder"):
        run(root / "nowhere", tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="finds no clip"):
        run(tmp_path / "in", tmp_path / "out")
