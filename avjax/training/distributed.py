"""Several processes: how they find one another, and what only the first of them does.

``avjax train`` calls ``join`` before anything else. Where one of the launchers below has started several processes it
connects them; where nothing has, it does nothing. The same command is therefore what a laptop, ``avjax launch``,
a SLURM task and a JobSet pod run.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avjax.launch import ADDRESS, HEARTBEAT, PROCESS, PROCESSES

# A process that has not been heard of for so long is given up, and the job with it.
HEARTBEAT_SECONDS = 60


def launcher(environment: Mapping[str, str]) -> str | None:
    """Who has started several processes: "avjax", "slurm", "jobset", "openmpi" or "tpu"; None where nobody has."""
    if PROCESSES in environment:
        return "avjax" if int(environment[PROCESSES]) > 1 else None
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        # A shell inside an allocation has SLURM_NTASKS too, but no task number of its own step.
        tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
        return "slurm" if int(tasks) > 1 else None
    if "JOBSET_NAME" in environment:
        return "jobset"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "openmpi"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    return None


def join() -> None:
    """Connects the processes of a job, where there is one; must come before the first use of a device.

    Raises:
      RuntimeError, ValueError: JAX's own, where the processes do not find one another.
    """
    name = launcher(os.environ)
    if name is None or jax.distributed.is_initialized():
        return
    options: dict[str, Any] = {"heartbeat_timeout_seconds": int(os.environ.get(HEARTBEAT, HEARTBEAT_SECONDS))}
    if name == "avjax":
        options |= {
            "coordinator_address": os.environ[ADDRESS],
            "num_processes": int(os.environ[PROCESSES]),
            "process_id": int(os.environ[PROCESS]),
        }
    if name in ("avjax", "slurm"):
        ids = local_devices(name, os.environ, visible_gpus(os.environ))
        options |= {"local_device_ids": ids} if ids else {}
    # JAX would take SIGTERM until training does, and lose it.
    jax.config.update("jax_enable_preemption_service", False)
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(**options)


def visible_gpus(environment: Mapping[str, str]) -> int:
    """How many GPUs this process could use, before any library has looked."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len([file for file in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)])


def local_devices(name: str, environment: Mapping[str, str], gpus: int) -> list[int] | None:
    """The GPUs of this process: an equal part of those that the tasks of its node share; None leaves it to JAX.

    JAX alone takes one GPU a SLURM task, and leaves the others of a node idle where there is one task a node.
    """
    if name == "slurm":
        place = int(environment.get("SLURM_LOCALID", "0"))
        node = int(environment.get("SLURM_NODEID", "0"))
        tasks = _tasks_of_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"), node)
    else:
        place, tasks = int(environment[PROCESS]), int(environment[PROCESSES])
    if gpus == 0:
        return None
    if name == "avjax" and gpus < tasks:
        raise ValueError(f"{gpus} GPUs cannot be shared out among {tasks} processes; start as many or fewer")
    bound = any(environment.get(variable) for variable in ("SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS_PER_TASK"))
    if gpus < tasks or (name == "slurm" and bound):
        # Each task was given GPUs of its own already (--gpus-per-task, --gpu-bind): all that it sees are its.
        return list(range(gpus))
    each = gpus // tasks
    return list(range(place * each, (place + 1) * each))


def _tasks_of_node(text: str, node: int) -> int:
    """SLURM's "2(x3),1": two tasks on each of three nodes, then one."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[min(node, len(counts) - 1)]


def is_joined() -> bool:
    """Whether this is one of several processes that were connected."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this is the process that writes what there is one of."""
    return jax.process_index() == 0


def together(name: str) -> None:
    """All processes wait here for one another."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def first_says(ask: Callable[[], int | None]) -> int | None:
    """A number, or None, that the first process finds out, told to all."""
    answer = ask() if is_first() else None
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    told = multihost_utils.broadcast_one_to_all(np.int32(-1 if answer is None else answer))
    return None if int(told) < 0 else int(told)


def everywhere(tree: Any) -> Any:
    """Local rows of every process joined, on every process."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def leave_alone(status: int) -> None:
    """Ends this process at once where there are no others: everything is saved, and Python's own end would wait for a
    thread that reads, which may hang."""
    if not jax.distributed.is_initialized():
        _leave(status)


def abandon(status: int) -> None:
    """Ends this process of several at once: the usual end would wait for the others, which wait for this one."""
    if jax.distributed.is_initialized():
        _leave(status)


def _leave(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
