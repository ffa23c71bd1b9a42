"""How the programs of this folder call avjax: in their own process, and no further where it fails."""

from __future__ import annotations

from pathlib import Path

from avjax.cli import main


def avjax(*words: str) -> None:
    """``avjax WORDS``, said before it starts; ends the program where the command fails."""
    print(f"\navjax {' '.join(words)}", flush=True)
    if status := main(words):
        raise SystemExit(status)


def train_run(experiment: str, run: Path, records: Path, *words: str, steps: int | None = None) -> None:
    """``avjax train`` to its end; a run that is there already is taken as it is.

    Ends the program where the run was stopped: a signal ends it without a fault, half trained.

    Args:
      steps: of the optimizer, where not the experiment's own number.
    """
    some = ["--training.steps", str(steps)] if steps else []
    avjax("train", experiment, "--out", str(run), "--data.records", str(records), *some, *words)
    if not (run / "results.json").is_file():
        raise SystemExit(f"{run} was interrupted; start again, and it goes on")
