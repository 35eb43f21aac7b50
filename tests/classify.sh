#!/bin/sh
# classify.sh BUILD: one scan by the weights of a run: the probability that the run itself got, and what is refused.
bin=$1
dir=$1/classify-test
. tests/shell.sh

says() # exit status, part of what it must print, options of classify...
{
    want=$1 part=$2
    shift 2
    "$bin/classify" "$@" > "$dir/log" 2>&1
    status=$?
    if [ $status = "$want" ] && grep -q -F -e "$part" "$dir/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "classify $*: exit $status, expected $want and \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
}

ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 2 --hc 2 --scale small --seed 3
ok "a run" "$bin/crossval" --data "$dir/cohort" --out "$dir/run" --size 32 --folds 2 --epochs1 1 --epochs2 1 \
    --batch 16 --bootstrap 20 --seed 7 --threads 1 --quiet
maps=$(echo "$dir"/cohort/derivatives/*/sub-01/anat)
qsm=$maps/sub-01_Chimap.nii.gz r2star=$maps/sub-01_R2starmap.nii.gz mask=$maps/sub-01_desc-basalganglia_mask.nii.gz
t1w=$(echo "$dir"/cohort/sub-01/anat/sub-01_T1w.nii.gz)
weights=$dir/run/weights

# The run's own number, for either input: how images are prepared comes from the weights.
tested() # input: "FOLD PROBABILITY" of sub-01 in predictions.csv
{
    awk -F, -v input="$1" '$1 == "scan" && $2 == input && $5 == "sub-01" { printf "%d %.4f", $4, $12 }' \
        "$dir/run/predictions.csv"
}
for input in crop full; do
    set -- $(tested $input)
    fold=$1 p=$2
    says 0 "probability of HH: $p (research only, not a diagnosis)" "$qsm" "$r2star" "$t1w" "$mask" \
        --weights "$dir/run" --fold "$fold" --input $input
    says 0 "probability of HH: $p" "$qsm" "$r2star" "$t1w" "$mask" \
        "$weights/$input-repeat01-fold0$fold-resnetswa.safetensors" "$weights/$input-repeat01-fold0$fold-qnet.safetensors"
done
set -- $(tested crop)
fold=$1 p=$2 other=$((3 - $1))
says 0 "probability of HH: $p" "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold "$fold"
says 0 'warning: these weights were trained on simulated subjects' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold "$fold"

# Weights that have seen the scan.
says 1 'these weights were trained on this scan' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold "$other"
says 0 'warning: these weights were trained on this scan' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold "$other" --seen

mkdir -p "$dir/unfinished/checkpoint"
cp -r "$weights/weights" "$dir/unfinished" 2> /dev/null || cp -r "$weights" "$dir/unfinished/weights"
: > "$dir/unfinished/checkpoint/config.txt"
says 0 'warning: a run into this folder has not ended' "$qsm" "$r2star" "$t1w" "$mask" --weights "$dir/unfinished" --fold "$fold"
rm -rf "$dir/unfinished"

# Maps that are not what they are called.
odd() # exit status, part of what it must print, QSM, R2*, T1W, mask, options
{
    status=$1 part=$2
    shift 2
    says "$status" "$part" "$@" --weights "$weights" --fold "$fold"
}
odd 1 'sub-01_R2starmap.nii.gz: looks like R2*: are QSM and R2* swapped?' "$r2star" "$qsm" "$t1w" "$mask"
odd 0 "warning: $r2star: looks like R2*" "$r2star" "$qsm" "$t1w" "$mask" --any-values
odd 1 'sub-01_T1w.nii.gz: is no mask' "$qsm" "$r2star" "$t1w" "$t1w"
odd 1 'sub-01_Chimap.nii.gz: no voxel is .5 or more' "$qsm" "$r2star" "$t1w" "$qsm"

# Two files that do not belong together.
pair() # exit status, part of what it must print, ResNet, Q-Net
{
    says "$1" "$2" "$qsm" "$r2star" "$t1w" "$mask" "$3" "$4"
}
resnet=$weights/crop-repeat01-fold0$fold-resnetswa.safetensors qnet=$weights/crop-repeat01-fold0$fold-qnet.safetensors
pair 1 "is crop repeat 1 fold $other qnet of run" "$resnet" "$weights/crop-repeat01-fold0$other-qnet.safetensors"
pair 1 "is crop repeat 1 fold $fold resnet of run" "$weights/crop-repeat01-fold0$fold-resnet.safetensors" "$qnet"
pair 1 "is full repeat 1 fold $fold qnet of run" "$resnet" "$weights/full-repeat01-fold0$fold-qnet.safetensors"
pair 1 "$qnet: is a qnet where a ResNet belongs: are the two files swapped?" "$qnet" "$resnet"
pair 1 "$resnet: is a resnetswa where a Q-Net belongs" "$resnet" "$resnet"
# Without the hash only what the files say of themselves can be compared.
old() # file: the same as an earlier version wrote it
{
    LC_ALL=C sed 's/"embedding_hash"/"embedding_none"/' "$1" > "$dir/old.safetensors"
}
old "$qnet"
pair 0 'cannot be checked' "$resnet" "$dir/old.safetensors"
pair 0 "probability of HH: $p" "$resnet" "$dir/old.safetensors"
old "$weights/crop-repeat01-fold0$other-qnet.safetensors"
pair 1 "old.safetensors is crop repeat 1 fold $other qnet of run" "$resnet" "$dir/old.safetensors"

# Maps and the command line.
says 1 '(--any-values)' "$r2star" "$qsm" "$t1w" "$mask" --weights "$weights" --fold "$fold"
says 1 'mask' "$qsm" "$r2star" "$t1w" --weights "$weights" --fold "$fold"
says 1 'none.nii' "$dir/none.nii" "$r2star" "$t1w" "$mask" --weights "$weights" --fold "$fold"
says 1 "full-repeat01-fold03-resnetswa.safetensors" "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold 3 --input full
says 2 'expected the fold' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights"
says 2 '--fold: expected a whole number' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold 1x
says 2 '--input: expected crop or full' "$qsm" "$r2star" "$t1w" "$mask" --weights "$weights" --fold 1 --input both
says 2 '--nonsense: expected a known option' --nonsense 1
says 2 'files: expected QSM R2STAR T1W' "$qsm" "$r2star"
says 2 'files: expected QSM R2STAR T1W'
says 0 'usage: classify QSM' --help
rm -rf "$dir"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
