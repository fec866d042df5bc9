#!/bin/bash
# Prompts to videos in a folder that all nodes share, on a SLURM cluster. Not run on one yet: its
# commands are tested, the whole is not.
#
#   sbatch examples/slurm-sample.sh                    # torchrun: every GPU has its share of lines
#   sbatch examples/slurm-sample.sh ray                # Ray: dead workers and nodes are replaced
#
# Change the lines with #SBATCH and the four settings. The virtual environment must be on a file
# system that all nodes share. The same command goes on where a job was ended by its time limit.
#SBATCH --job-name=cogvideox-sample
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --time=12:00:00
set -euo pipefail

VENV=$HOME/cog-cogvideox/.venv
WEIGHTS=$HOME/cog-cogvideox/checkpoints/cogvideox-5b
PROMPTS=$HOME/prompts.txt
OUT=$SCRATCH/clips

gpus=${SLURM_GPUS_ON_NODE:-4}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

with_torchrun() {
    srun "$VENV/bin/torchrun" --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" \
        --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
        -m sampling "$PROMPTS" "$OUT" --weights "$WEIGHTS"
}

with_ray() {
    # Whoever reaches Ray's ports can run code as you: nodes are often open to all users.
    RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
    srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
        "$VENV/bin/ray" start --head --port=6379 --num-gpus="$gpus" --block &
    if ((SLURM_JOB_NUM_NODES > 1)); then
        # A node that is early tries again until the head is there.
        srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" \
            --exclude="$head" --overlap bash -c \
            "until '$VENV/bin/ray' start --address='$head:6379' --num-gpus=$gpus --block; do
                 sleep 5
             done" &
    fi
    srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap --gpus=0 bash -c \
        "until '$VENV/bin/ray' status --address='$head:6379' >/dev/null 2>&1; do sleep 5; done"
    srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
        "$VENV/bin/cogvideox" sample "$PROMPTS" "$OUT" --weights "$WEIGHTS" \
        --ray "$head:6379" --workers "$((SLURM_JOB_NUM_NODES * gpus))"
    # The job's end takes the clusters' processes with it.
}

if [[ ${1:-torchrun} == ray ]]; then with_ray; else with_torchrun; fi
