#!/bin/bash
# Lingshu-7B on four nodes with eight GPUs each: sbatch slurm_train.sh OUT DATA
# OUT and DATA are on a disk that all nodes share. The job requeues itself until the run is done.
#SBATCH --job-name=lingshu-7b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM two minutes before the time limit: the state is saved, and every process exits with 75.
#SBATCH --signal=TERM@120

set -u
out=$1
data=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    -m lingshu train lingshu_7b \
    data.alignment="$data/alignment" data.captions="$data/captions" data.instruct="$data/instruct" \
    --out "$out" --resume

# torchrun ends with 1 whether it was asked to stop or something failed; what is done has its run card.
if [ ! -f "$out/run.json" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
