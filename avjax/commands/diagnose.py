"""avjax diagnose: what a trained model listens to, what it looks at, and when it breaks."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from avjax.commands import UsageError, Words


@dataclasses.dataclass(frozen=True)
class DiagnoseOptions:
    """Measures a trained model of classes: contribution of each modality, saliency drift, consistency, robustness,
    faithfulness of explanations. Writes report.html (one file, offline), report.json and samples.npz.

    Attributes:
      run: run directory.
      tier: how much: smoke is a minute, standard some minutes, full everything the clips and the suites give.
      out: folder; RUN/diagnosis/TIER unless told. The same command goes on there.
      split: train, validation or test.
      head: of classes; needed where the model has several.
      checkpoint: the newest, or the one that did best on the validation split.
      records: other records than the run was trained on; they must have the same classes.
      clips: at most so many, in place of the tier's number.
      alone: MODALITY=RUN of a model that was trained on that modality alone, to see what this one leaves unused.
      seed: of everything random.
      vs: a folder or report.json of another diagnosis, to compare with clip by clip; effective robustness is above it.
      gate: a YAML file of bounds; the exit status is 1 where one is broken.
      quiet: shows no progress.
      json: prints the headline, the verdicts and the broken bounds as JSON.
    """

    run: Positional[Path]
    tier: Literal["smoke", "standard", "full"] = "standard"
    out: Path | None = None
    split: str = "test"
    head: str | None = None
    checkpoint: Literal["last", "best"] = "last"
    records: Path | None = None
    clips: int | None = None
    alone: tuple[str, ...] = ()
    seed: int = 0
    vs: Path | None = None
    gate: Path | None = None
    quiet: bool = False
    json: bool = False


def diagnose(words: Words) -> int:
    """RUN [--tier smoke|standard|full]    what a model listens to, looks at, and when it breaks"""
    from avjax.diagnostics.diagnosis import compare, exit_code, headline, read, read_bounds, verdicts, violations, write
    from avjax.diagnostics.probe import ModelProbe, reader_of
    from avjax.diagnostics.protocol.diagnose import diagnose as carry_out
    from avjax.diagnostics.protocol.groups import attributes
    from avjax.diagnostics.protocol.study import Study
    from avjax.diagnostics.protocol.tiers import TIERS
    from avjax.diagnostics.protocol.training_drift import kept_checkpoints
    from avjax.training.trained import Trained

    options = tyro.cli(DiagnoseOptions, prog="avjax diagnose", args=words)
    # What cannot be read is told before the work, not after it.
    bounds = read_bounds(options.gate) if options.gate else []
    other = read(options.vs) if options.vs else None
    if options.clips is not None and options.clips < 1:
        raise UsageError(f"--clips {options.clips}: a diagnosis needs clips")
    trained = Trained.load(options.run, options.checkpoint)
    probe = ModelProbe.of(trained, options.head)
    records = None if options.records is None else str(options.records)
    reader = reader_of(trained, probe.head, options.split, records)
    tier = TIERS[options.tier]
    if options.clips is not None:
        tier = dataclasses.replace(tier, clips=options.clips)
    index = reader.choose(tier.clips, seed=options.seed)
    study = Study(
        probe, reader.read(index), tier, read=lambda rows, late: reader.read(rows, audio_late=late), seed=options.seed,
        checkpoints=kept_checkpoints(trained), attributes=attributes(reader, index),
        alone={
            modality: _trained_alone(modality, run, probe, reader, index)
            for modality, run in _alone(options.alone, probe).items()
        },
        history=tuple(trained.run.metrics()),
    )  # fmt: skip
    out = options.out or options.run / "diagnosis" / options.tier
    command = shlex.join(["avjax", "diagnose", *words])
    about = _about(trained, probe, reader, len(index))
    diagnosis = carry_out(study, about, out, command=command, quiet=options.quiet, baseline=other)
    compared = None if other is None else compare(diagnosis, other)
    write(diagnosis, out, versus=compared)
    broken = violations(diagnosis, bounds)
    found = verdicts(diagnosis)
    if options.json:
        print(json.dumps({
            "out": str(out), "synthetic": diagnosis.synthetic,
            "headline": {one.name: one.value for one in headline(diagnosis)},
            "verdicts": {one.rule.title: one.light for one in found}, "broken": broken,
        }, indent=1, allow_nan=False))  # fmt: skip
    else:
        _show(diagnosis, found, headline(diagnosis), broken)
    print(f"wrote {out / 'report.html'}", file=sys.stderr)
    return exit_code(broken)


def _alone(words: tuple[str, ...], probe: Any) -> dict[str, Path]:
    """Modality -> run, of words such as audio=runs/demo_audio."""
    found = {}
    for word in words:
        modality, sign, run = word.partition("=")
        if not sign or modality not in probe.modalities:
            raise UsageError(f"--alone {word}: it wants MODALITY=RUN, of {', '.join(probe.modalities)}")
        found[modality] = Path(run)
    return found


def _trained_alone(modality: str, run: Path, probe: Any, reader: Any, index: Any) -> Any:
    """What another run makes of the clips, whatever it takes of them."""
    from avjax.diagnostics.probe import ModelProbe, reader_of
    from avjax.diagnostics.protocol.inside import inside
    from avjax.diagnostics.protocol.study import Alone
    from avjax.training.trained import Trained

    trained = Trained.load(run)
    other = ModelProbe.of(trained, probe.head)
    if other.classes != probe.classes:
        raise UsageError(f"--alone {run}: its classes are {', '.join(other.classes)}")
    clips = reader_of(trained, probe.head, reader.split, str(reader.data.records)).read(index)
    return Alone(other.logits(clips).argmax(axis=1) == clips.label, inside(other, clips).tokens.get(modality))


def _about(trained: Any, probe: Any, reader: Any, clips: int) -> dict[str, dict[str, Any]]:
    import jax

    from avjax.data.records import Records
    from avjax.diagnostics.protocol.diagnose import fingerprint
    from avjax.run import read_json
    from avjax.training.tracking import environment

    state, records = trained.state, Records(reader.data.records)
    command = read_json(trained.run.command_file)
    params = state.params if state.average is None else state.average
    return {
        "model": {
            "name": trained.run.name,
            "modalities": list(probe.modalities),
            "head": probe.head,
            "classes": list(probe.classes),
            "checkpoint": fingerprint((params, state.buffers)),
            "step": int(state.step),
            "commit": trained.run.results().get("environment", {}).get("commit"),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "experiment": shlex.join([str(trained.run.path / "experiment" / command["experiment"]), *command["words"]]),
        },
        "data": {
            "name": records.description.name,
            "synthetic": records.description.synthetic,
            "split": reader.split,
            "clips": clips,
            "fingerprint": records.fingerprint,
        },
        "env": environment(),
    }


WORDS = {"good": "good", "warn": "watch", "bad": "bad"}


def _show(diagnosis: Any, found: Any, numbers: Any, broken: list[str]) -> None:
    console = Console()
    title = f"{diagnosis.about['model']['name']}{', SYNTHETIC DATA' if diagnosis.synthetic else ''}"
    table = Table("", "value", "", title=title)
    for one in numbers:
        table.add_row(one.name, one.text, one.note)
    console.print(table)
    for one in found:
        if one.light != "unknown":
            where = f" ({one.where})" if one.where else ""
            said = f"{WORDS[one.light]:>5}  {one.rule.title}{where}: {one.said}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    commands = {command: why for one in found for why, command in one.commands}
    if commands:
        console.print("\nWhat may help:")
        for words, why in commands.items():
            console.print(f"  {words}\n      {why}", highlight=False, markup=False, soft_wrap=True)
    for line in broken:
        console.print(f"bound broken: {line}", highlight=False, markup=False)
