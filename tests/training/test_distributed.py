"""Who has started several processes, and which GPUs each of them takes."""

from __future__ import annotations

import pytest

from avjax.training.distributed import launcher, local_devices, visible_gpus

STEP = {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"AVJAX_PROCESSES": "2"}, "avjax"),
        ({"AVJAX_PROCESSES": "1"}, None),
        (STEP | {"SLURM_STEP_NUM_TASKS": "8"}, "slurm"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, None),
        # A shell inside an allocation, without srun.
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),
        ({"JOBSET_NAME": "avjax"}, "jobset"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "openmpi"),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_launcher(environment, name):
    assert launcher(environment) == name


def slurm(place: int, tasks: str, node: int = 0) -> dict[str, str]:
    return STEP | {"SLURM_LOCALID": str(place), "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        # One task a node takes all of its GPUs, where JAX alone would take the first.
        (slurm(0, "1(x2)"), 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (slurm(1, "2(x2)"), 8, [4, 5, 6, 7]),
        (slurm(3, "8(x2)"), 8, [3]),
        # Nodes of different sizes.
        (slurm(0, "4(x2),1", node=2), 4, [0, 1, 2, 3]),
        (slurm(2, "4(x2),1", node=1), 4, [2]),
        # SLURM has given each task a GPU of its own: all that it sees are its.
        (slurm(3, "4"), 1, [0]),
        (slurm(1, "2") | {"SLURM_GPUS_PER_TASK": "4"}, 4, [0, 1, 2, 3]),
        # No GPU is JAX's to find out.
        (slurm(0, "4"), 0, None),
        # What is left over is nobody's: every process holds as many.
        (slurm(1, "3"), 8, [2, 3]),
    ],
)
def test_gpus_of_a_slurm_task(environment, gpus, expected):
    assert local_devices("slurm", environment, gpus) == expected


def test_gpus_of_a_launched_process():
    told = {"AVJAX_PROCESSES": "2", "AVJAX_PROCESS": "1"}
    assert local_devices("avjax", told, 4) == [2, 3]
    assert local_devices("avjax", told, 0) is None
    with pytest.raises(ValueError, match="1 GPUs cannot be shared out among 2 processes"):
        local_devices("avjax", told, 1)


@pytest.mark.parametrize(("chosen", "count"), [("0,1,3", 3), ("", 0), ("-1", 0), ("GPU-5f", 1)])
def test_visible_gpus(chosen, count):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": chosen}) == count
