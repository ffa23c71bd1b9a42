#!/usr/bin/env bash
# One task a node, all GPUs of the node for it: sbatch --nodes 4 experiments/launch/slurm.sh experiments/demo_mbt.py [...]
# Give the same command again and the run goes on from its last checkpoint, on any number of nodes.
#SBATCH --job-name=avjax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# Two minutes before the time is up every task is told, saves, and ends with status 0.
#SBATCH --signal=TERM@120
# A node that dies takes the job with it, which then starts again by itself.
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# --kill-on-bad-exit: one task that dies ends the others, which would wait for it.
exec srun --kill-on-bad-exit=1 --label avjax train "$@"
