#!/bin/sh
# One crossval on many machines of a SLURM cluster, some folds on each:
#
#   id=$(DATA=/data/cohort OUT=/scratch/out sbatch --parsable --array=1-8 examples/slurm.sh)
#   DATA=/data/cohort OUT=/scratch/out sbatch --dependency=afterok:$id examples/slurm.sh
#
# The second job has no array: it collects. OUT is on a disk that all machines share. OPTIONS: any others, the same for
# both; --cpu names kernels that every machine has, since others round differently. A part that fails is given again
# by PARTS=8 and --array=3.
#SBATCH --job-name=qnet
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@1800
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=qnet-%A-%a.log

set -- "${CROSSVAL:-build/crossval}" --data "$DATA" --out "$OUT" --threads "${SLURM_CPUS_PER_TASK:-1}" --resume $OPTIONS
[ -z "$SLURM_ARRAY_TASK_ID" ] && exec srun "$@" --collect
part=auto
[ -n "$PARTS" ] && part=$SLURM_ARRAY_TASK_ID/$PARTS
srun "$@" --part "$part"
status=$?
# 75: stopped before the time limit, half an hour (an epoch and more) ahead; the job queues again and goes on.
[ $status = 75 ] && scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && exit 0
exit $status
