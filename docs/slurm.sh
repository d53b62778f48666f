#!/bin/bash
# Training on several machines with Slurm:
#   sbatch --nodes=4 docs/slurm.sh --shards /shared/shards/recordings --preset audio-base --out /shared/runs/one
# One task a machine; torchrun starts a process for each of its GPUs. Processes that are lost are started again and go on
# from the last checkpoint; so is the whole job when Slurm requeues it. The set and --out lie where all machines see them.
#SBATCH --job-name=bridle
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -eu
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it from sbatch any more
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A job that was requeued goes on with what it left.
restarted=$([ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && echo --restarted || true)

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    --module bridle_cli pretrain "$@" $restarted
