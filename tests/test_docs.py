"""Every command in the documentation is known here, and is run or at least parsed.

A fenced ```bash block of README.md, CONTRIBUTING.md or docs/*.md is split into commands. Each must match a row of
COMMANDS, which says how it is held:

* ``run``: `make check` executes it in a scratch folder, with the row's words appended, which shrink it; where the row
  says ``long``, `make long` does.
* ``parse``: the program must accept its words without carrying them out; for pods, TPUs and long runs.
* ``elsewhere``: another test or the continuous integration runs that very command; the row names it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avjax.cli import main

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(?:bash|sh|shell|console)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Held:
    """How a command of the documentation is held to work."""

    how: str
    words: str = ""  # appended, where run
    by: str = ""  # the test or script, where elsewhere
    data: str = ""  # a folder of AVJAX_TEST_DATA that it needs, where run; it stands there as data/NAME
    seconds: int = 300
    long: bool = False  # run by `make long`, with all that it needs, and only parsed by `make check`


# Beginning of the command -> how it is held; the longest beginning that matches counts.
COMMANDS: dict[str, Held] = {
    "make quickstart": Held("elsewhere", by="tests/test_quickstart.py::test_quickstart_leaves_results_and_a_report"),
    "avjax prepare demo": Held("run", "--corpus.clips-per-actor 8"),
    "avjax prepare ravdess": Held("parse"),
    "avjax prepare my_corpus.py": Held("elsewhere", by="tests/test_cli.py::test_a_corpus_of_ones_own_is_one_file"),
    "avjax train demo_mbt --data.records records/ravdess": Held("parse"),
    "avjax train demo_mbt --training.precision bfloat16 --training.remat": Held("run", "--training.steps 3", long=True),
    "avjax train demo_mbt --out runs/followed": Held("run", "--training.steps 3", long=True),
    "avjax train demo_mbt --training.mesh.fsdp": Held("run", "--training.steps 3", long=True),
    "avjax train demo_attention": Held("run", "--training.steps 3", long=True),
    "avjax train demo_mbt --training.evaluate-every": Held(
        "run", "--training.steps 3 --training.evaluate-every 2", long=True
    ),
    "avjax train demo_mbt --measure": Held("run", "--training.steps 3", long=True),
    "avjax train demo_": Held("run", "--training.steps 3"),
    # Tasks, from their corpora on: tests/test_task_*.py train one experiment of each, four in `make check`.
    "python experiments/synthetic/mosei.py": Held("run", "--clips 60", long=True),
    "avjax prepare mosei": Held("run", long=True),
    "avjax train sentiment_text": Held("run", "--training.steps 3", long=True),
    "avjax train sentiment_mult": Held("elsewhere", by="tests/test_task_sentiment.py"),
    "python experiments/synthetic/affwild.py": Held("run", "--clips 8 --seconds 8", long=True),
    "avjax prepare affwild": Held("run", long=True),
    "avjax train affect_rjcma": Held("run", "--training.steps 2", long=True),
    "python experiments/synthetic/kinetics_sounds.py": Held("run", "--clips 8", long=True),
    "avjax prepare kinetics_sounds": Held("run", long=True),
    "avjax train action_kim_won": Held("run", "--training.steps 2", long=True),
    "python experiments/synthetic/deepfake1m.py": Held("run", "--clips 64 --people 8", long=True),
    "avjax prepare deepfake1m": Held("run", long=True),
    "avjax train deepfake_klassify": Held("elsewhere", by="tests/test_task_deepfake.py::test_forgeries_are_found"),
    "avjax train deepfake_cmran": Held("run", "--training.steps 2", long=True),
    "python experiments/synthetic/grid.py": Held("run", "--clips 20 --speakers 1 2", long=True),
    "avjax prepare grid": Held("run", long=True),
    "avjax train speech_audio": Held("run", "--training.steps 2", long=True),
    "avjax train speech_dcm": Held("elsewhere", by="tests/test_task_speech.py"),
    "python experiments/speech_decoding.py": Held("elsewhere", by="tests/test_task_speech.py"),
    "python experiments/synthetic/voxceleb.py": Held("run", "--people 8", long=True),
    "avjax prepare voxceleb": Held("run", long=True),
    "avjax train matching_aicanet": Held(
        "elsewhere", by="tests/test_task_matching.py::test_voices_find_faces_of_people_never_seen"
    ),
    "python experiments/synthetic/ave.py": Held("run", "--clips 60 --noisy 10", long=True),
    "avjax prepare ave": Held("run", long=True),
    "avjax train events_": Held("run", "--training.steps 2", long=True),
    "avjax train events_psp": Held("elsewhere", by="tests/test_task_events.py::test_events_are_found"),
    "avjax eval": Held("run"),
    "avjax eval runs/best": Held("run", long=True),
    "avjax predict": Held("run"),
    "avjax diagnose": Held("run", "--clips 8", seconds=600, long=True),
    "avjax diagnose runs/demo_mbt --tier smoke --vs": Held(
        "elsewhere", by="tests/diagnostics/protocol/test_diagnose.py::test_the_command"
    ),
    "avjax diagnose runs/demo_mbt --tier smoke --alone": Held(
        "elsewhere", by="tests/diagnostics/protocol/test_diagnose.py::test_the_command"
    ),
    "avjax diagnose runs/demo_mbt --tier smoke --gate": Held(
        "elsewhere", by="tests/diagnostics/protocol/test_diagnose.py::test_the_command"
    ),
    "avjax compare": Held("run"),
    "avjax compare compare_demo": Held("run", "--steps 2 --only audio mbt", seconds=600, long=True),
    "avjax compare demo_late": Held("run", "--steps 2 --seeds 0 --only demo_late", seconds=600, long=True),
    "python experiments/figures.py demo": Held("run", "--steps 2 --seeds 0 --clips-per-actor 4", long=True),
    "python experiments/figures.py interaction": Held("run", "--steps 2 --clips-per-actor 4", long=True),
    "python experiments/figures.py informativeness": Held(
        "elsewhere", by="tests/test_informativeness.py::test_the_program_on_tiny_corpora"
    ),
    "python experiments/cures.py": Held(
        "run", "--steps 1 --seeds 0 --only merged_balance --clips-per-actor 4 --clips 8", seconds=600, long=True
    ),
    "python experiments/missing_rates.py": Held(
        "run", "--steps 1 --train-rates 0.5 --test-rates 0 1 --clips-per-actor 4 --clips 8", seconds=600, long=True
    ),
    "python experiments/encoder_rates.py": Held(
        "run", "--steps 1 --rates 0.1 --clips-per-actor 4", seconds=600, long=True
    ),
    "python experiments/retraining.py": Held(
        "run", "--steps 1 --shares 0.5 --orders explanation --clips-per-actor 4 --clips 8", seconds=900, long=True
    ),
    "python experiments/figures.py systems": Held(
        "run", "--steps 2 --seeds 0 --only mult --clips-per-actor 4", long=True
    ),
    "python experiments/figures.py digits": Held(
        "run", "--steps 2 --speakers george", data="fsdd", seconds=900, long=True
    ),
    "python experiments/figures.py peers": Held("elsewhere", by="tests/test_peers.py::test_the_libraries_agree"),
    "python experiments/benchmarks/prepare.py": Held("run", "--rounds 1 --clips 2 --seconds 1"),
    "python experiments/benchmarks/train_step.py": Held("run", "--rounds 1 --batch 1 --size 32,2,2", long=True),
    "python experiments/benchmarks/train_memory.py": Held("run", "--size Ti --batch 1", long=True),
    "avjax plan kernels --target v6e": Held("elsewhere", by="tests/kernels/aot/test_plan.py::test_sizes_are_searched"),
    "avjax plan kernels": Held("elsewhere", by="tests/kernels/aot/test_plan.py::test_a_plan_has_schedules_and_steps"),
    "python -m kernels.aot.baseline": Held(
        "elsewhere", by="tests/kernels/aot/test_plan.py::test_the_baseline_is_compared"
    ),
    "python experiments/benchmarks/kernel_plan.py": Held("elsewhere", by="tests/kernels/aot/test_plan.py::test_tables"),
    "python experiments/benchmarks/train_memory.py --topology": Held("parse"),
    "avjax bench attention": Held("run", "--specs odd_7 --rounds 2"),
    "avjax bench attention --dtypes": Held("run", "--specs odd_7 --rounds 2", long=True),
    "python experiments/figures.py attention": Held("run", "--steps 2 --clips-per-actor 4", long=True),
    "avjax launch": Held("run", "--training.steps 3", long=True),
    "sbatch": Held("elsewhere", by="tests/test_launch.py::test_the_slurm_script_hands_over_its_words"),
    "kubectl apply": Held("elsewhere", by="tests/test_launch.py::test_the_jobset_s_command_parses"),
    "python -m pytest tests/models/test_systems.py -k gated_mean": Held(
        "elsewhere", by="tests/test_add_a_model.py::test_the_page_makes_a_model_that_trains"
    ),
    "avjax train demo_gated_mean": Held(
        "elsewhere", by="tests/test_add_a_model.py::test_the_page_makes_a_model_that_trains"
    ),
    "make install": Held("elsewhere", by=".ci/run"),
    "make test": Held("elsewhere", by=".ci/run"),
    "make check": Held("elsewhere", by=".ci/run"),
    # Hours: what is held is that it runs what the others leave.
    "make long": Held("elsewhere", by="tests/test_house.py::test_every_test_has_its_target"),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """One command as it stands in a document."""

    file: str
    line: int
    text: str


def commands(text: str, file: str) -> list[Command]:
    """The commands of every fenced shell block: comments and output left out, continued lines joined, `&&` split."""
    found = []
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start(1)) + 1
        content = block.group(1)
        prompted = re.search(r"^\$ ", content, re.MULTILINE) is not None
        pending, begin = "", line
        for number, raw in enumerate(content.split("\n"), line):
            if not pending:
                begin = number
                if prompted and not raw.startswith("$ "):
                    continue
                raw = raw.removeprefix("$ ")
            pending += raw.rstrip("\\") if raw.endswith("\\") else raw
            if raw.endswith("\\"):
                continue
            # comments=True drops what follows a hash sign, as the shell does.
            words = shlex.split(pending, comments=True)
            pending = ""
            if words:
                joined = shlex.join(words)
                found += [Command(file, begin, part.strip()) for part in joined.split(" '&&' ")]
    return found


def documents() -> list[Path]:
    named = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md"]
    return [path for path in (*named, *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]


def documented() -> list[Command]:
    return [
        command
        for path in documents()
        for command in commands(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]


def held(text: str) -> Held | None:
    # A row that ends in an underscore stands for every name that begins so.
    matching = [
        prefix
        for prefix in COMMANDS
        if text == prefix or text.startswith(prefix if prefix.endswith("_") else f"{prefix} ")
    ]
    return COMMANDS[max(matching, key=len)] if matching else None


def argv(text: str) -> list[str]:
    """The words, with `avjax` and `python` being this checkout and this interpreter."""
    words = shlex.split(text)
    replaced = {"avjax": [sys.executable, "-m", "avjax.cli"], "python": [sys.executable]}
    return [*replaced.get(words[0], words[:1]), *words[1:]]


def test_every_documented_command_is_known() -> None:
    unknown = [f"{one.file}:{one.line}: {one.text}" for one in documented() if held(one.text) is None]
    assert not unknown, "add each to COMMANDS in tests/test_docs.py: " + "; ".join(unknown)


def test_every_row_is_used_and_sound() -> None:
    texts = [one.text for one in documented()]
    for prefix, row in COMMANDS.items():
        assert row.how in ("run", "parse", "elsewhere"), prefix
        assert any(held(text) is row for text in texts), f"no document has the command {prefix!r} any more"
        if row.how == "elsewhere":
            assert (ROOT / row.by.split("::")[0]).exists(), f"{prefix}: {row.by} does not exist"


def rows(how: str) -> list[Any]:
    """For pytest: documented commands of rows that are held so, in order; what stands in several places, once."""
    there = {one.text: one for one in documented() if (row := held(one.text)) and row.how == how}
    return [
        pytest.param(one, id=text, marks=pytest.mark.long if held(text).long else ()) for text, one in there.items()
    ]


LONG_ONES = [pytest.param(*one.values, id=one.id, marks=pytest.mark.slow) for one in rows("run") if one.marks]


@pytest.mark.parametrize("one", [*rows("parse"), *LONG_ONES])
def test_it_parses(
    one: Command, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` after the words: the program reads them all, complains about what it does not know, and does nothing."""
    program, *words = shlex.split(one.text)
    if program == "avjax" and words[0] != "launch":
        # In this process: to start Python and import JAX takes far longer than to parse.
        monkeypatch.chdir(scratch)
        try:
            status = main([*words, "--help"])
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        assert status == 0, f"{one.file}:{one.line}: {said.out[-1500:]}{said.err[-1500:]}"
        return
    done = subprocess.run(
        [*argv(one.text), "--help"], cwd=scratch, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{one.file}:{one.line}: {done.stdout[-1500:]}{done.stderr[-1500:]}"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, in the order of the documents: later ones use what earlier ones made."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("one", rows("run"))
def test_it_runs(one: Command, scratch: Path, request: pytest.FixtureRequest) -> None:
    row = held(one.text)
    if row.data and not (scratch / "data" / row.data).exists():
        (scratch / "data").mkdir(exist_ok=True)
        (scratch / "data" / row.data).symlink_to(request.getfixturevalue("test_data") / row.data)
    # With the devices that a reader has, but compiled as fast as tests are.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    done = subprocess.run(
        argv(f"{one.text} {row.words}"),
        cwd=scratch, env=environment, capture_output=True, text=True, timeout=row.seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{one.file}:{one.line}: {done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_commands_are_found_as_a_shell_would() -> None:
    text = (
        "words\n```bash\n# a comment\nmake quickstart && make test  # two\n\navjax train demo_mbt \\\n"
        "    --steps 3\n```\n```python\nnot a command\n```\n```console\n$ avjax eval runs/x\naccuracy 0.9\n```\n"
    )
    assert commands(text, "f") == [
        Command("f", 4, "make quickstart"),
        Command("f", 4, "make test"),
        Command("f", 6, "avjax train demo_mbt --steps 3"),
        Command("f", 13, "avjax eval runs/x"),
    ]


def test_an_unknown_command_is_told() -> None:
    assert held("avjax levitate") is None
    assert held("make tests") is None
    assert held("make test VENV=x") is COMMANDS["make test"]
