"""Drills: what can happen to a run happens to it, and nothing is lost. ``make check`` prints the table of outcomes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from avjax.run import Run
from tests.levels import in_short
from tests.training.conftest import (
    Commands,
    assert_same_parameters,
    descendants,
    finished,
    losses,
    parameters,
    said,
    send,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.alone]

WORDS = ("--quiet", "--training.steps", "40", "--training.checkpoint-every", "8", "--training.log-every", "1")


@pytest.fixture(scope="module")
def outcomes(request):
    """What each drill came to, shown at the end."""
    rows: list[tuple[str, str]] = []
    yield lambda drill, outcome: rows.append((drill, outcome))
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line("")
        for drill, outcome in rows:
            reporter.write_line(f"drill: {drill:42} {outcome}")


@pytest.fixture(scope="module")
def whole(tiny_experiment, tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    Commands(folder).run("train", tiny_experiment, "--out", folder / "run", *WORDS)
    return folder / "run"


def halfway(tiny_experiment, commands, run: Path, *words: str) -> None:
    """A run that was stopped by SIGTERM behind its second checkpoint."""
    with commands.start("train", tiny_experiment, "--out", run, *WORDS, *words) as child:
        until(lambda: 16 in finished(run), child)
        send(child.pid, signal.SIGTERM)
        child.wait(timeout=60)
    assert finished(run)[-1] < 40, "the run had ended before it was stopped"


@pytest.mark.parametrize("number", in_short((signal.SIGTERM, signal.SIGINT), (signal.SIGTERM,)))
def test_a_signal_saves_and_ends_well(number, tiny_experiment, whole, commands, tmp_path, outcomes):
    run = tmp_path / "run"
    with commands.start("train", tiny_experiment, "--out", run, *WORDS) as child:
        until(lambda: 8 in finished(run), child)
        send(child.pid, number)
        assert child.wait(timeout=60) == 0
        text = said(child)
    step = int(re.search(rf"stopped by {number.name} after step (\d+)", text)[1])
    assert 8 <= step < 40
    # It was saved where it stood, not where a checkpoint was due.
    assert finished(run)[-1] == step
    assert Run(run).results() == {}
    commands.run("train", tiny_experiment, "--out", run, *WORDS)
    assert_same_parameters(run, whole)
    outcomes(number.name, f"saved at step {step}, status 0; resumed: bit-identical")


def damage_by_cutting(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def damage_by_flipping(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


DAMAGES = (damage_by_cutting, damage_by_flipping, Path.unlink)


@pytest.mark.parametrize("damage", in_short(DAMAGES, (damage_by_flipping,)))
def test_a_damaged_newest_checkpoint_is_left_for_the_one_before(
    damage, tiny_experiment, whole, commands, tmp_path, outcomes
):
    run = tmp_path / "run"
    halfway(tiny_experiment, commands, run)
    before, newest = finished(run)
    files = [file for file in (run / "checkpoints" / str(newest) / "arrays").rglob("*") if file.stat().st_size > 99]
    chosen = random.choice([file for file in files if file.is_file()])
    damage(chosen)
    text = commands.run("train", tiny_experiment, "--out", run, *WORDS).stderr
    warnings = [line for line in text.splitlines() if "damaged" in line]
    assert len(warnings) == 1
    assert f"checkpoint {newest}: " in warnings[0]
    assert chosen.name in warnings[0]
    assert f"using the one of step {before}" in warnings[0]
    assert f"going on from step {before}" in text
    # Set aside, not thrown away.
    assert (run / "checkpoints" / f"damaged-{newest}").is_dir()
    assert_same_parameters(run, whole)
    outcomes(f"newest checkpoint, {damage.__name__}", f"warned; step {newest} -> {before}; resumed: bit-identical")


@pytest.mark.long
def test_where_all_checkpoints_are_damaged_it_says_so(tiny_experiment, commands, tmp_path):
    run = tmp_path / "run"
    halfway(tiny_experiment, commands, run)
    steps = finished(run)
    for step in steps:
        damage_by_cutting(run / "checkpoints" / str(step) / "position.json")
    text = commands.run("train", tiny_experiment, "--out", run, *WORDS, status=2).stderr
    assert "every checkpoint in" in text
    assert "delete the folder to start over" in text
    assert finished(run) == steps


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory of its own, and a function that gives it so many megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=False).returncode
    if mounted:
        pytest.skip("mounting a small file system needs the right to mount")
    yield place, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_and_loses_nothing(tiny_experiment, whole, commands, small_disk, tmp_path, outcomes):
    disk, remount = small_disk
    run = disk / "run"
    with commands.start("train", tiny_experiment, "--out", run, *WORDS) as child:
        until(lambda: 8 in finished(run), child)
        with (disk / "something else").open("wb") as other:
            try:
                while True:
                    other.write(bytes(4096))
                    other.flush()
            except OSError as full:
                assert "No space left" in str(full)  # noqa: PT017, the disk is full now
        assert child.wait(timeout=60) == 2
        text = said(child)
    (message,) = re.findall("avjax: (.*)", text)
    assert "No space left" in message
    assert "Event loop is closed" not in text
    kept = finished(run)
    assert kept
    (disk / "something else").unlink()
    remount("size=64m")
    commands.run("train", tiny_experiment, "--out", run, *WORDS)
    assert_same_parameters(run, whole)
    outcomes("disk full", f"status 2, '{message[:60]}...'; step {kept[-1]} kept; resumed: bit-identical")


def test_a_read_only_run_directory_is_refused(tiny_experiment, commands, small_disk, outcomes):
    disk, remount = small_disk
    remount("size=64m")
    run = disk / "run"
    halfway(tiny_experiment, commands, run)
    kept = finished(run)
    remount("ro")
    text = commands.run("train", tiny_experiment, "--out", run, *WORDS, status=2).stderr
    assert "Traceback" not in text
    assert "Read-only file system" in text
    assert str(run) in text
    remount("rw")
    assert finished(run) == kept
    commands.run("train", tiny_experiment, "--out", run, *WORDS)
    outcomes("read-only run directory", "status 2, names the file; nothing changed; resumed when writable")


POISONED = '''"""The tiny experiment, whose loss is no number where a batch holds record 7; with -2, in every batch."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import tiny

from avjax.experiment import Experiment
from avjax.objectives.classification import Classification


@dataclasses.dataclass(frozen=True)
class Poisoned(Classification):
    poison: int = 7

    def __call__(self, output, batch):
        loss, parts = super().__call__(output, batch)
        return jnp.where((batch.index == self.poison).any() | (self.poison == -2), jnp.nan, 1) * loss, parts


def experiment() -> Experiment:
    return dataclasses.replace(tiny.experiment(), objective=Poisoned())
'''


@pytest.fixture
def poisoned(tiny_experiment) -> Path:
    file = tiny_experiment.with_name("poisoned.py")
    file.write_text(POISONED)
    return file


def bad_steps(experiment_file: Path, steps: int) -> dict[int, list[int]]:
    """Step -> records of its batch, where record 7 is among them."""
    from avjax.data.pipeline import training_batches
    from avjax.experiment import load

    data = load(experiment_file)[0].data
    batches = enumerate(training_batches(data, seed=0, start=0, steps=steps), start=1)
    return {number: sorted(batch.index.tolist()) for number, batch in batches if 7 in batch.index}


@pytest.mark.parametrize("policy", in_short(("stop", "skip", "rewind"), ("rewind",)))
def test_a_batch_that_is_no_number(policy, poisoned, commands, tmp_path, outcomes):
    """Record 7 comes once an epoch, in every third step."""
    bad, run = bad_steps(poisoned, 40), tmp_path / "run"
    assert len(bad) >= 12
    words = (*WORDS, "--training.non-finite", policy, "--training.checkpoint-every", "2")
    ended = commands.run("train", poisoned, "--out", run, *words, status=2 if policy == "stop" else 0)
    first = min(bad)
    assert f"step {first}: loss nan" in ended.stderr
    assert f"the batch held the records {bad[first]}" in ended.stderr
    if policy == "stop":
        assert finished(run) == list(range(2, first, 2))[-2:]
        outcomes("NaN batch, stop", f"status 2 at step {first}; records named; checkpoints {finished(run)} kept")
        return
    for step, records in bad.items():
        assert f"step {step}: loss nan" in ended.stderr
        assert str(records) in ended.stderr
    # Every good step was logged, and none of the bad ones.
    assert set(losses(run)) == set(range(1, 41)) - set(bad)
    marked = [line["step"] for line in Run(run).metrics() if f"non_finite/{policy}" in line]
    assert marked == sorted(bad)
    arrays = parameters(run)
    assert int(arrays["step"]) == 40
    assert all((abs(value) < 1e6).all() for value in arrays.values() if value.dtype == "float32")
    # The test split has a record 7 too: its loss is nobody's number, and the scores are there all the same.
    results = Run(run).results()
    assert results["test"]["losses"]["loss"] is None
    assert 0 <= results["test"]["metrics"]["label"]["accuracy"]["value"] <= 1
    assert "NaN" not in (run / "metrics.jsonl").read_text()
    # The optimizer has taken the good steps alone; a rewind has unmade some of them too.
    count = next(int(value) for name, value in arrays.items() if name.endswith("count"))
    assert count == 40 - len(bad) if policy == "skip" else count < 40 - len(bad)
    outcomes(f"NaN batch, {policy}", f"{len(bad)} bad steps named and left out; ended at step 40 with status 0")


@pytest.mark.long
def test_nothing_but_bad_batches_ends_the_run(poisoned, commands, tmp_path, outcomes):
    """Then skipping is given up."""
    words = ("--training.non-finite", "skip", "--objective.poison", "-2")
    text = commands.run("train", poisoned, "--out", tmp_path / "run", *WORDS, *words, status=2).stderr
    assert "It was left out 10 times before" in text
    outcomes("NaN in every batch, skip", "status 2 after 10 in a row")


STALLING = '''"""The tiny experiment, whose records cannot be read where a file says so."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import tiny

from avjax.data.pipeline import AudioSampling
from avjax.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Stalling(AudioSampling):
    file: str = ""

    def read(self, record, start, values, valid):
        while self.file and Path(self.file).exists():
            time.sleep(0.05)
        super().read(record, start, values, valid)


def experiment() -> Experiment:
    made = tiny.experiment()
    return dataclasses.replace(made, data=dataclasses.replace(made.data, audio=Stalling(made.data.audio.samples)))
'''


def test_input_that_stalls(tiny_experiment, commands, tmp_path, outcomes):
    file = tiny_experiment.with_name("stalling.py")
    file.write_text(STALLING)
    stall = tmp_path / "stall"
    run, other = tmp_path / "run", tmp_path / "other"
    words = (*WORDS, "--data.audio.file", str(stall), "--training.stall-limit", "12")
    with commands.start("train", file, "--out", run, *words) as child:
        until(lambda: 8 in finished(run), child)
        stall.touch()
        assert child.wait(timeout=90) == 2
        text = said(child)
    assert re.search(r"for \d s: waiting for the batch of step \d+ \(.*reading record \d+ of train", text)
    last = re.search(r"avjax: no batch for step (\d+) within 12 s \((.*)\)", text)
    assert "reading record" in last[2]
    # What had been computed was saved.
    assert finished(run)[-1] == int(last[1]) - 1
    stall.unlink()
    commands.run("train", file, "--out", run, *words)
    commands.run("train", file, "--out", other, *words)
    assert_same_parameters(run, other)
    outcomes("stalled input", f"warned, naming the record; saved at step {int(last[1]) - 1}, status 2; bit-identical")


@pytest.mark.long
def test_a_resumed_run_that_stalls_at_once_keeps_its_checkpoint(tiny_experiment, commands, tmp_path):
    file = tiny_experiment.with_name("stalling.py")
    file.write_text(STALLING)
    stall, run = tmp_path / "stall", tmp_path / "run"
    words = (*WORDS, "--data.audio.file", str(stall), "--training.stall-limit", "2")
    halfway(file, commands, run, "--data.audio.file", str(stall), "--training.stall-limit", "2")
    kept = finished(run)
    stall.touch()
    text = commands.run("train", file, "--out", run, *words, status=2).stderr
    assert "avjax: no batch for step" in text
    assert finished(run) == kept
    # Asked to stop while it waits, it does.
    with commands.start("train", file, "--out", run, *words[:-1], "600") as child:
        until(lambda: "going on from step" in said(child), child)
        time.sleep(3)
        send(child.pid, signal.SIGTERM)
        assert child.wait(timeout=20) == 0
    assert finished(run) == kept


@pytest.mark.long
def test_input_that_only_pauses_is_waited_for(tiny_experiment, commands, tmp_path, outcomes):
    file = tiny_experiment.with_name("stalling.py")
    file.write_text(STALLING)
    stall, run = tmp_path / "stall", tmp_path / "run"
    words = (*WORDS, "--data.audio.file", str(stall), "--training.stall-limit", "20")
    with commands.start("train", file, "--out", run, *words) as child:
        until(lambda: 8 in finished(run), child)
        stall.touch()
        time.sleep(5)
        stall.unlink()
        assert child.wait(timeout=90) == 0
        assert "waiting for the batch of step" in said(child)
    outcomes("input pauses", "warned and went on")


@pytest.mark.parametrize("number", in_short((signal.SIGKILL, signal.SIGSTOP), (signal.SIGKILL,)))
def test_one_of_four_processes(number, tiny_experiment, commands, tmp_path, outcomes):
    """Dead: noticed at once. Stopped: within the limit. The message names it, and all four are gone."""
    run, limit, victim = tmp_path / "run", 10, random.randrange(4)
    words = ("launch", "--processes", 4, "--limit", limit, "--", "train", tiny_experiment, "--out", run, *WORDS)
    words = (*words, "--training.steps", "100000")
    with commands.start(*words) as child:
        until(lambda: 8 in finished(run), child)
        members = descendants(child.pid)
        assert len(members) == 4
        begin = time.monotonic()
        send(members[victim], number)
        status = child.wait(timeout=limit + 30)
        took = time.monotonic() - begin
        text = said(child)
    assert status == 1
    message = next(line for line in text.splitlines() if line.startswith("avjax launch: "))
    what = "was ended by SIGKILL" if number == signal.SIGKILL else r"has not answered for \d+ s"
    assert re.match(rf"avjax launch: process {victim} of 4 \(pid {members[victim]}\) {what}", message)
    assert took < (5 if number == signal.SIGKILL else limit + 5)
    assert not any(Path(f"/proc/{member}").exists() for member in members)
    # What was whole is whole, and another number of processes goes on from it.
    step = finished(run)[-1]
    with commands.start("train", tiny_experiment, "--out", run, *words[10:]) as child:
        until(lambda: finished(run)[-1] > step, child)
        send(child.pid, signal.SIGTERM)
        assert child.wait(timeout=60) == 0
    outcomes(f"{number.name} of one of four processes", f"named after {took:.1f} s (limit {limit} s); resumed on one")


def test_a_signal_to_the_launcher_saves_and_ends_well(tiny_experiment, commands, tmp_path, outcomes):
    run = tmp_path / "run"
    words = ("launch", "--processes", 2, "--", "train", tiny_experiment, "--out", run, *WORDS)
    with commands.start(*words, "--training.steps", "100000") as child:
        until(lambda: 8 in finished(run), child)
        send(child.pid, signal.SIGTERM)
        assert child.wait(timeout=60) == 0
        text = said(child)
    steps = set(re.findall(r"stopped by SIGTERM after step (\d+)", text))
    assert steps == {str(finished(run)[-1])}
    outcomes("SIGTERM to avjax launch", f"both processes saved at step {steps.pop()}, status 0")


@pytest.mark.long
def test_a_signal_to_one_process_stops_all(tiny_experiment, commands, tmp_path):
    run = tmp_path / "run"
    words = ("launch", "--processes", 2, "--", "train", tiny_experiment, "--out", run, *WORDS)
    with commands.start(*words, "--training.steps", "100000") as child:
        until(lambda: 8 in finished(run), child)
        send(descendants(child.pid)[1], signal.SIGTERM)
        assert child.wait(timeout=60) == 0
        text = said(child)
    assert len(set(re.findall(r"after step (\d+)", text))) == 1
    assert "[0] avjax: stopped by another process's signal" in text


@pytest.mark.long
def test_without_its_launcher_a_process_saves_and_ends(tiny_experiment, commands, tmp_path):
    run = tmp_path / "run"
    words = ("launch", "--processes", 2, "--", "train", tiny_experiment, "--out", run, *WORDS)
    with commands.start(*words, "--training.steps", "100000") as child:
        until(lambda: 8 in finished(run), child)
        members = descendants(child.pid)
        child.kill()
        until(lambda: not any(alive(member) for member in members), seconds=60)
    assert finished(run)


def alive(process: int) -> bool:
    """Whether a process is still running, rather than waiting to be counted out."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ten_kills_at_random_moments(tiny_experiment, whole, commands, tmp_path, outcomes):
    """Five at any moment, five inside a checkpoint write; the end is bit for bit the whole run's."""
    run, inside = tmp_path / "run", 0
    words = ("train", tiny_experiment, "--out", run, *WORDS, "--training.checkpoint-every", "1")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for kill in range(10):
        with commands.start(*words) as child:
            # What an earlier kill has left is cleared away first.
            until(lambda: not being_written(run), child)
            known = set(finished(run))
            if kill % 2:
                # A step's folder is there, and its checksums are not.
                until(lambda: bool(being_written(run)), child)
                time.sleep(chance.uniform(0, 0.01))
            else:
                until(lambda known=known: set(finished(run)) != known, child)
                time.sleep(chance.uniform(0, 0.3))
            assert child.poll() is None, "the run ended before it could be killed ten times"
            send(child.pid, signal.SIGKILL)
            child.wait()
            inside += bool(being_written(run))
    commands.run(*words)
    # The same words, but for how often it was saved, which changes nothing of the parameters.
    assert_same_parameters(run, whole)
    assert inside >= 3
    assert not being_written(run)
    assert Run(run).results()["test"]["metrics"] == Run(whole).results()["test"]["metrics"]
    outcomes("kill -9 at ten random moments", f"{inside} inside a checkpoint write; the end bit-identical")


def being_written(run: Path) -> list[str]:
    """Checkpoints that are begun and not finished."""
    folders = (run / "checkpoints").glob("*") if (run / "checkpoints").is_dir() else []
    return [f.name for f in folders if f.name.isdecimal() and not (f / "checksums.json").exists()]


def test_a_finished_run_does_nothing_on_a_full_disk_but_say_so(whole, tiny_experiment, commands, small_disk):
    """Even where nothing can be written, what was there is read."""
    disk, remount = small_disk
    remount("size=64m")
    shutil.copytree(whole, disk / "run")
    remount("ro")
    text = commands.run("eval", disk / "run", status=2).stderr
    assert "Read-only file system" in text
    assert os.listdir(disk / "run")
