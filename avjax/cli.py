"""The command line: avjax prepare | train | eval | predict | compare.

Each command is one function of one dataclass of options; ``main`` finds it, and turns errors that a user can mend
into one line. Results go to standard output (as JSON with --json), everything else to standard error.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from tyro.conf import AvoidSubcommands, Positional

C = TypeVar("C")
E = TypeVar("E")
Words = Sequence[str]


class UsageError(Exception):
    """A command line that cannot be carried out; says what to write instead."""


# ------------------------------------------------------------------------------------------------- prepare


@dataclasses.dataclass(frozen=True)
class PrepareOptions(Generic[C]):
    """Decodes a folder of media files once, into records that training reads.

    Attributes:
      data: folder of the corpus, in its original layout (the demo corpus is generated into it).
      out: folder for the records; an unfinished one is gone on with.
      corpus: the corpus's own settings.
      video_codec: jpeg: each frame by itself; h264: the file's own stream, not encoded again; raw: exact pixels. The
        corpus has a default, mostly jpeg.
      audio_codec: pcm16, or flac (smaller, slower).
      size: height and width that frames are resized to; needed where clips differ in size.
      workers: processes that decode; one a core unless told.
      overwrite: starts over where ``out`` holds records of other settings.
      json: prints the report as JSON.
    """

    data: Path
    out: Path
    corpus: C
    video_codec: Literal["jpeg", "h264", "raw"] | None = None
    audio_codec: Literal["pcm16", "flac"] = "pcm16"
    size: tuple[int, int] | None = None
    workers: int | None = None
    overwrite: bool = False
    json: bool = False


def prepare(words: Words) -> int:
    """CORPUS --data FOLDER --out FOLDER    media files to records"""
    from avjax.data.prepare import prepare as prepare_corpus

    name, rest = _first(words, "prepare", "CORPUS", _corpora())
    corpus = _corpus(name)
    options = tyro.cli(AvoidSubcommands[PrepareOptions[corpus]], prog=f"avjax prepare {name}", args=rest)
    if options.corpus.synthetic:
        options.data.mkdir(parents=True, exist_ok=True)
    report = prepare_corpus(
        options.corpus,
        options.data,
        options.out,
        video_codec=options.video_codec or getattr(options.corpus, "video_codec", "jpeg"),
        audio_codec=options.audio_codec,
        size=options.size,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(json.dumps(report.to_json(), indent=1) if options.json else report.text())
    return 0


def _corpora() -> list[str]:
    folder = Path(__file__).parent / "data" / "corpora"
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def _corpus(name: str) -> type:
    """The class ``Corpus`` of a corpus file, by name or path."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UsageError(f"there is no corpus file {name}")
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        module = importlib.util.module_from_spec(spec)
        # Worker processes and dataclasses look the module up by its name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    elif name in _corpora():
        module = importlib.import_module(f"avjax.data.corpora.{name}")
    else:
        near = _nearest(name, _corpora())
        raise UsageError(f"there is no corpus {name!r}{near}; a path to a corpus file will do too")
    if not hasattr(module, "Corpus"):
        raise UsageError(f"{name} defines no dataclass Corpus; avjax/data/corpora/__init__.py says what it needs")
    return module.Corpus


# ------------------------------------------------------------------------------------------------- train


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains an experiment, or goes on where its run was left.

    Attributes:
      out: run directory; runs/EXPERIMENT unless told.
      profile: writes an xprof trace of ten steps into the run.
      quiet: shows no progress.
      json: prints the results as JSON.
    """

    out: Path | None = None
    profile: bool = False
    quiet: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class TrainHelp(Generic[E]):
    """Trains an experiment, or goes on where its run was left. Any field of the experiment can be set."""

    run: Annotated[TrainOptions, tyro.conf.arg(name="")]
    experiment: Annotated[E, tyro.conf.arg(name="")]


def train(words: Words) -> int:
    """EXPERIMENT [--out RUN] [--optimizer.learning-rate 1e-3 ...]    trains, or goes on with a run"""
    from avjax.experiment import concrete_type, load
    from avjax.run import Run
    from avjax.training.loop import train as train_run

    name, rest = _first(words, "train", "EXPERIMENT", _experiments())
    if {"-h", "--help"} & set(rest):
        experiment, _ = load(name)
        both = AvoidSubcommands[TrainHelp[concrete_type(experiment)]]
        tyro.cli(both, prog=f"avjax train {name}", args=["--help"], default=TrainHelp(TrainOptions(), experiment))
    options, rest = tyro.cli(TrainOptions, prog=f"avjax train {name}", args=rest, return_unknown_args=True)
    _refuse_near_misses(rest)
    experiment, source = load(name, tuple(rest))
    run = Run.create(options.out or Path("runs") / source.name, experiment, source)
    results = train_run(experiment, run, quiet=options.quiet, profile=options.profile)
    _show({run.name: results}, as_json=options.json)
    return 0


def _refuse_near_misses(words: Words) -> None:
    """What the experiment would refuse as unknown may be a flag of `avjax train` itself, misspelt."""
    own = [f"--{field.name}" for field in dataclasses.fields(TrainOptions)]
    for word in words:
        flag = word.split("=")[0]
        near = difflib.get_close_matches(flag, own, n=1, cutoff=0.75)
        if flag.startswith("--") and "." not in flag and near:
            raise UsageError(f"avjax train has no flag {flag!r}; did you mean {near[0]!r}?")


def _experiments() -> list[str]:
    from avjax.experiment import known

    return known()


# ------------------------------------------------------------------------------------------------- eval


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Evaluates runs on a split, with bootstrap intervals.

    Attributes:
      runs: run directories.
      split: train, validation or test.
      records: other records than the run was trained on; they must have the same classes.
      average: also averages the probabilities of all runs (late fusion of separately trained models), and keeps the
        result in this folder.
      json: prints the results as JSON.
    """

    runs: Positional[tuple[Path, ...]]
    split: str = "test"
    records: Path | None = None
    average: Path | None = None
    json: bool = False


def evaluate(words: Words) -> int:
    """RUN... [--split test] [--average FOLDER]    scores runs, alone and averaged"""
    from avjax.data.records import Records
    from avjax.run import distinct_names
    from avjax.training.evaluate import average
    from avjax.training.trained import Trained

    options = tyro.cli(EvalOptions, prog="avjax eval", args=words)
    if not options.runs:
        raise UsageError("avjax eval needs a run directory, such as runs/demo_mbt")
    if options.average and options.records:
        raise UsageError("avjax eval averages what runs say of their own records: leave out --records or --average")
    split, results = options.split, {}
    names = distinct_names([*options.runs, *([options.average] if options.average else [])])
    for name, path in zip(names, options.runs, strict=False):
        trained = Trained.load(path)
        description = Records(options.records).description if options.records else trained.description
        results[name] = {split: trained.score(split, options.records), "synthetic": description.synthetic}
    if options.average:
        found = average(options.runs, split, options.average)
        synthetic = any(result["synthetic"] for result in results.values())
        results[names[-1]] = {split: found, "synthetic": synthetic}
    _show(results, as_json=options.json, split=split)
    return 0


# ------------------------------------------------------------------------------------------------- predict


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Says what a trained model makes of media files.

    Attributes:
      run: run directory.
      files: videos or sound files; what a file lacks counts as a missing modality.
      top: number of classes to show.
      without: a modality to leave out.
      clips: crops of each file to average over; the experiment's own number unless told.
      json: prints the probabilities of all classes as JSON.
    """

    run: Positional[Path]
    files: Positional[tuple[Path, ...]]
    top: int = 3
    without: Literal["audio", "video"] | None = None
    clips: int | None = None
    json: bool = False


def predict(words: Words) -> int:
    """RUN FILE... [--top 3] [--without audio|video]    classifies media files"""
    from avjax.training.trained import Trained

    options = tyro.cli(PredictOptions, prog="avjax predict", args=words)
    if not options.files:
        raise UsageError("avjax predict needs a media file behind the run directory")
    trained = Trained.load(options.run)
    found, table = [], Table("file", "head", "prediction", "missing")
    table.title = f"{trained.run.name}{', trained on SYNTHETIC data' if trained.description.synthetic else ''}"
    for answer in trained.classify(options.files, without=options.without, clips=options.clips):
        if "error" in answer:
            table.add_row(Path(answer["file"]).name, "", f"[red]{answer['error']}")
        for head, values in answer.pop("probabilities", {}).items():
            names = trained.description.classes[head.split("/")[0]]
            ranked = sorted(zip(names, map(float, values), strict=True), key=lambda pair: -pair[1])
            best = ", ".join(f"{name} {value:.0%}" for name, value in ranked[: options.top])
            table.add_row(Path(answer["file"]).name, head, best, ", ".join(answer["missing"]))
            answer.setdefault("heads", {})[head] = dict(ranked)
        found.append(answer)
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        Console().print(table)
    return 1 if all("error" in answer for answer in found) else 0


# ------------------------------------------------------------------------------------------------- compare


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Puts runs side by side: a table, and a self-contained HTML report with pictures.

    Attributes:
      runs: run directories.
      out: where to write the report, such as report.html; none is written unless told.
      title: of the report.
      json: prints the table as JSON.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path | None = None
    title: str = "avjax: runs compared"
    json: bool = False


def compare(words: Words) -> int:
    """RUN... [--out report.html]    runs side by side, with pictures"""
    from avjax.diagnostics import report

    options = tyro.cli(CompareOptions, prog="avjax compare", args=words)
    if not options.runs:
        raise UsageError("avjax compare needs run directories, such as runs/demo_audio runs/demo_mbt")
    if options.out:
        report.write_report(options.runs, options.out, title=options.title)
        print(f"wrote {options.out}", file=sys.stderr)
    table = report.compare(options.runs)
    if options.json:
        print(json.dumps(table, indent=1, allow_nan=False))
    else:
        Console().print(report.table(table))
    return 0


# ------------------------------------------------------------------------------------------------- main

COMMANDS: dict[str, Callable[[Words], int]] = {
    "prepare": prepare,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "compare": compare,
}


def main(words: Words | None = None) -> int:
    """Runs one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("avjax").setLevel(logging.INFO)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from avjax import __version__

        print(f"avjax {__version__}")
        return 0
    command, *rest = words
    # Compiled programs are kept from run to run; a library that only imports avjax decides for itself.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avjax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        if command not in COMMANDS:
            raise UsageError(f"there is no command {command!r}{_nearest(command, list(COMMANDS))}")
        return COMMANDS[command](rest)
    except KeyboardInterrupt:
        print("avjax: interrupted; the same command goes on from what was written last", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("AVJAX_TRACEBACK") or not _mendable(error):
            raise
        print(f"avjax: {error}", file=sys.stderr)
        return 2


def _mendable(error: Exception) -> bool:
    """Errors whose message tells a user what to do; anything else is a fault of ours and keeps its traceback."""
    own = type(error).__module__.partition(".")[0] == "avjax"
    return own or isinstance(error, (OSError, ValueError, ImportError))


def _overview() -> str:
    lines = ["avjax: audio-visual fusion with attention", ""]
    lines += [f"  avjax {name:8} {command.__doc__}" for name, command in COMMANDS.items()]
    lines += ["", "avjax COMMAND --help tells the options of a command. AVJAX_TRACEBACK=1 shows where an error arose."]
    return "\n".join(lines)


def _first(words: Words, command: str, what: str, known: list[str]) -> tuple[str, list[str]]:
    """The positional word behind a command, and the rest."""
    if not words or words[0].startswith("-"):
        usage = f"usage: avjax {command} {COMMANDS[command].__doc__}\n\n{what} is one of {', '.join(known)}, or a path"
        if words and words[0] in ("-h", "--help"):
            print(f"{usage}.\navjax {command} {what} --help tells its options.")
            raise SystemExit(0)
        raise UsageError(usage)
    return words[0], list(words[1:])


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _show(results: dict[str, Any], *, as_json: bool, split: str = "test") -> None:
    """Results of runs as JSON, or their metrics on a split as a table."""
    if as_json:
        print(json.dumps(results, indent=1, allow_nan=False))
        return
    synthetic = any(result.get("synthetic") for result in results.values())
    title = f"split {split}{', SYNTHETIC DATA' if synthetic else ''}"
    table = Table("run", "head", "metric", "value", "95 % interval", "clips", title=title)
    for name, result in results.items():
        for head, metrics in result.get(split, {}).get("metrics", {}).items():
            for metric, entry in metrics.items():
                interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
                table.add_row(name, head, metric, f"{entry['value']:.3f}", interval, str(entry["count"]))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
