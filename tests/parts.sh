#!/bin/sh
# parts.sh BUILD: one run shared by four processes, each started as another cluster would: one is killed, stopped by
# signals and resumed, and what is collected has the bits of a run alone.
bin=$1
dir=$1/parts-test
. tests/shell.sh
unset OMPI_COMM_WORLD_RANK PMI_RANK SLURM_ARRAY_TASK_ID SLURM_ARRAY_JOB_ID SLURM_PROCID SLURM_CPUS_PER_TASK PBS_VNODENUM PARTS

small="--size 32 --folds 2 --max-slices 4 --epochs1 2 --epochs2 2 --batch 8 --bootstrap 20 --seed 7 --weights $dir/start"
ok start "$bin/tests/test_weights" "$dir/start"
crossval() { "$bin/crossval" --data "$dir/cohort" --out "$dir/out" $small --threads 1 "$@"; }
says() # exit status, part of the one sentence, options of crossval...
{
    expected=$1 part=$2
    shift 2
    crossval "$@" > "$dir/stdout" 2> "$dir/refusal"
    status=$?
    ok "crossval $*: exit $status, says $(cat "$dir/refusal")" \
        test $status = "$expected" -a "$(grep -c -F -e "$part" "$dir/refusal")" = 1 -a "$(wc -l < "$dir/refusal")" = 1
}
begun() { while kill -0 $1 2> /dev/null && [ ! -f "$dir/out/part-2-of-4/checkpoint/$2" ]; do sleep 0.05; done; }

ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 3 --hc 3 --scale small --seed 3
ok "one run" "$bin/crossval" --data "$dir/cohort" --out "$dir/one" $small --threads 1 --quiet

# srun and scontrol as examples/slurm.sh calls them.
mkdir "$dir/cluster"
printf '#!/bin/sh\nexec "$@"\n' > "$dir/cluster/srun"
printf '#!/bin/sh\necho "$@" >> "%s/requeued"\n' "$PWD/$dir" > "$dir/cluster/scontrol"
chmod +x "$dir/cluster/srun" "$dir/cluster/scontrol"
slurm()
{
    env PATH="$PWD/$dir/cluster:$PATH" CROSSVAL="$bin/crossval" DATA="$dir/cohort" OUT="$dir/out" \
        OPTIONS="$small --weights-out features" "$@" sh examples/slurm.sh
}

says 1 'expected parts there, such as part-1-of-4' --collect
OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4 SLURM_PROCID=0 SLURM_NTASKS=1 crossval --part auto > "$dir/1" 2>&1 &
first=$!
PMI_RANK=1 PMI_SIZE=4 "$bin/crossval" --data "$dir/cohort" --out "$dir/out" $small --checkpoint-seconds 0 \
    --threads 1 --part auto > "$dir/2" 2>&1 &
second=$!
slurm SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=4 SLURM_PROCID=0 SLURM_NTASKS=1 > "$dir/3" 2>&1 &
third=$!
SLURM_PROCID=3 SLURM_NTASKS=4 crossval --part auto > "$dir/4" 2>&1 &
fourth=$!
begun $second crop-repeat01-fold02-resnet.checkpoint
says 1 'part-2-of-4/run.lock: another run works in this folder: process' --part 2/4 --resume
kill -KILL $second 2> /dev/null
wait $second 2> /dev/null
for pid in $first $third $fourth; do
    wait $pid
    ok "a part ends well" test $? = 0
done
ok "it says what comes then" grep -q 'Part 3 of 4 is done.*--collect' "$dir/3"
ok "a part has no results" test ! -e "$dir/out/predictions.csv" -a -d "$dir/out/part-1-of-4/checkpoint"

says 1 '1 of 4 parts are missing or not finished: 2; run or resume them with --part K/N --resume, then --collect' --collect
says 1 'holds an unfinished run' --part 2/4
says 1 'part-2-of-4/checkpoint/config.txt: the run to resume has "--seed 7", this one has "--seed 8"' --part 2/4 --resume --seed 8
says 1 'part-1-of-4/checkpoint/config.txt: the run to resume has "--seed 7", this one has "--seed 8"' --collect --seed 8
says 2 'expected K/N with K from 1 to N' --part 5/4
says 2 'expected K/N with K from 1 to N' --part 0/4
says 1 'part 1 of 5: expected 1 to the number of parts, and of parts 1 to 4' --part 1/5
says 2 'expected no --part beside it' --part 1/4 --collect
says 2 'expected to be started by srun, mpirun' --part auto
export SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=2 SLURM_ARRAY_TASK_COUNT=2
says 2 'without gaps; else K/N' --part auto
unset SLURM_ARRAY_TASK_ID

# Signals: at once, and at the end of an epoch; the script queues again.
"$bin/crossval" --data "$dir/cohort" --out "$dir/out" $small --threads 1 --part 2/4 --resume > "$dir/stop" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && ! grep -qs 'stage 1 epoch' "$dir/stop"; do sleep 0.02; done
kill -TERM $pid
wait $pid
ok "SIGTERM" test $? = 75
ok "says how to go on" grep -q 'stopped; the same command with --resume' "$dir/stop"
rm -f "$dir"/out/part-2-of-4/checkpoint/*.checkpoint "$dir/stop"
"$bin/crossval" --data "$dir/cohort" --out "$dir/out" $small --checkpoint-seconds 0 --threads 1 --part 2/4 --resume > "$dir/stop" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && ! grep -qs 'stage 1 epoch' "$dir/stop"; do sleep 0.02; done
kill -USR1 $pid
wait $pid
ok "SIGUSR1" test $? = 75
ok "a checkpoint was written first" sh -c "ls '$dir'/out/part-2-of-4/checkpoint/crop-repeat01-fold02-*.checkpoint"
printf '#!/bin/sh\nexit 75\n' > "$dir/cluster/srun"
ok "a job that was stopped" slurm SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=2 PARTS=4
ok "queues again" grep -q -x 'requeue 5_2' "$dir/requeued"
printf '#!/bin/sh\nexec "$@"\n' > "$dir/cluster/srun"
PBS_VNODENUM=1 PBS_NP=4 crossval --part auto --resume > "$dir/log" 2>&1
ok "resumed" test $? = 0

mkdir "$dir/out/part-1-of-3"
says 1 'expected parts of one number, found parts of ' --collect
rmdir "$dir/out/part-1-of-3"
ok "collected" slurm
for file in predictions.csv weights/crop-repeat01-fold02-resnetswa.safetensors weights/full-repeat01-fold02-qnet.safetensors; do
    ok "same $file" cmp "$dir/one/$file" "$dir/out/$file"
done
ok "same results.json" cmp "$dir/one/results.json" "$dir/out/results.json"
for out in one out; do sed "s|parts-test/$out<|<|; s|<td>[0-9]* [a-z]*onds</td>||; /<tr class=\"run\">/d" "$dir/$out/report.html" > "$dir/$out.html"; done
ok "same page, but for times and commands" cmp "$dir/one.html" "$dir/out.html"
ok "features need no ResNet" sh -c "! ls '$dir/out/weights' | grep -q -e '-resnet.safetensors'"
ok "the parts are gone" sh -c "! ls '$dir/out' | grep -q -e part- -e checkpoint"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
