#!/bin/bash
# A job on machines that Slurm lends, from the root of the repository on a file system that all of them share:
#
#   make setup                                                            once, on a node that has Python 3.11
#   (umask 077 && mkdir -p ~/.ray && openssl rand -hex 32 > ~/.ray/auth_token)     once
#   sbatch cluster/vm/slurm.sh generate manifests/demo.yaml --out "$SCRATCH/runs/demo" --workers 2
#
# The same command again resumes. Change: what is asked for below, --account and --partition.
#SBATCH --job-name=darkroom
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=06:00:00
# Whole machines: Ray's ports are open to everybody on them, and `ray stop` at the end ends every Ray of yours there.
#SBATCH --exclusive
set -euo pipefail

job=$1
shift
[[ -f jobs/$job.py ]] || { echo "no jobs/$job.py here: submit from the root of the repository" >&2; exit 2; }
export PATH=$PWD/.venv/bin:$PATH RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token
# Without one no node starts, and `ray symmetric-run` ends with 0 all the same, as if the job were done.
[[ -s $RAY_AUTH_TOKEN_PATH ]] || { echo "no token in $RAY_AUTH_TOKEN_PATH: see the head of this file" >&2; exit 2; }
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # seconds; its 30 are short for Python on a shared file system

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:$((20000 + SLURM_JOB_ID % 10000))  # another job's Ray may be on the usual port
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    -- python "jobs/$job.py" "$@" --address "$address"
