"""avjax launch: several processes of one command on this machine."""

from __future__ import annotations

import dataclasses

import tyro

from avjax.commands import UsageError, Words

USAGE = "usage: avjax launch --processes 4 -- train experiments/demo_mbt.py [...]"


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """Trains in several processes on this machine, as SLURM or Kubernetes would on many.

    A process that dies ends the job; so does one that has not answered for ``limit`` seconds, and a message names it.

    Attributes:
      processes: how many. GPUs are shared out evenly.
      devices: CPU devices that each process shall have, where there is no accelerator.
      limit: seconds without a sign of life after which a process counts as hung.
    """

    processes: int
    devices: int = 1
    limit: float = 30.0


def launch(words: Words) -> int:
    """--processes N -- train EXPERIMENT [...]    several processes on this machine"""
    from avjax.launch import Job

    words = list(words)
    own, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    options = tyro.cli(LaunchOptions, prog="avjax launch", args=own)
    if not command or command[0] != "train":
        raise UsageError(f"behind -- stands what to run, `train` and its words. {USAGE}")
    if options.processes < 1 or options.devices < 1 or options.limit <= 0:
        raise UsageError(f"--processes and --devices are 1 or more, and --limit is above 0. {USAGE}")
    return Job(command, options.processes, devices=options.devices, limit=options.limit).run()
