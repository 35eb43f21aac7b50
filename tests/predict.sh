#!/bin/sh
# predict.sh BUILD: a model of all subjects of a small run, stopped and resumed; what it and the folds' networks say of
# scans of the study and of others; and what is refused.
bin=$1
dir=$1/predict-test
. tests/shell.sh

says() # exit status, part of what it must print, options of predict...
{
    want=$1 part=$2
    shift 2
    "$bin/predict" "$@" --out "$dir/out" > "$dir/log" 2>&1
    status=$?
    if [ $status = "$want" ] && grep -q -F -e "$part" "$dir/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "predict $*: exit $status, expected $want and \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
}
small='--size 32 --folds 2 --max-slices 4 --epochs1 2 --epochs2 3 --batch 16 --bootstrap 20 --seed 7 --quiet'
crossval() # output folder, options...
{
    out=$1
    shift
    "$bin/crossval" --data "$dir/cohort" --out "$out" $small "$@"
}
refused() # exit status, part of its sentence, output folder, options of crossval...
{
    want=$1 part=$2
    shift 2
    crossval "$@" > "$dir/log" 2>&1
    status=$?
    ok "crossval $*: exit $status, says $(tail -n 1 "$dir/log")" \
        test $status = "$want" -a "$(grep -c -F -e "$part" "$dir/log")" = 1
}
number() { sed -n "s/^  \"$1\": \([^,]*\),*$/\1/p" "$dir/out/$2.json"; } # of the file of a scan

ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 10 --hc 10 --scale small --seed 3
ok "new subjects" "$bin/make_phantom" --out "$dir/new" --hh 1 --hc 1 --scale small --seed 9
run=$dir/run model=$dir/run/model

# The final model, at once and after a stop. It is made of a run that is done.
refused 2 'expected no --part beside it' "$run" --final --part 1/2
refused 2 'expected no --shuffle-labels beside it' "$run" --final --shuffle-labels
refused 2 'expected --weights-out features or all' "$run" --final --weights-out none
ok "a run and its model" crossval "$run" --final --threads 1
ok "no work is left" test ! -e "$model/checkpoint" -a ! -e "$model/run.lock"
sums() { (cd "$1" && cksum ./*.safetensors); }
sums "$model" > "$dir/sums"
ok "7 files" test "$(wc -l < "$dir/sums")" = 7
cp "$run/predictions.csv" "$dir/before.csv"
rm -r "$model"
"$bin/crossval" --data "$dir/cohort" --out "$run" $small --final --checkpoint-seconds 0 > "$dir/log" 2>&1 &
pid=$!
i=0
while [ $i -lt 6000 ] && kill -0 $pid 2> /dev/null && [ ! -f "$model/checkpoint/crop-repeat01-fold03-swa.checkpoint" ]; do
    sleep 0.05
    i=$((i + 1))
done
kill -TERM $pid
wait $pid
ok "stopped" test $? = 75
refused 1 'holds an unfinished run' "$run" --final
refused 1 'a final model takes ResNetSWA and Q-Net of every fold from there' "$run" --final --resume --epochs2 4
ok "resumed" crossval "$run" --final --resume --threads 2
sums "$model" > "$dir/again"
ok "the same bits" cmp "$dir/sums" "$dir/again"
ok "the folds were not trained again" cmp "$dir/before.csv" "$run/predictions.csv"
refused 1 'a final model takes ResNetSWA and Q-Net of every fold' "$run" --final --seed 8
mv "$run/weights/crop-repeat01-fold02-qnet.safetensors" "$dir/aside"
refused 1 'crop-repeat01-fold02-qnet.safetensors' "$run" --final
mv "$dir/aside" "$run/weights/crop-repeat01-fold02-qnet.safetensors"
sums "$model" > "$dir/again"
ok "the model stays" cmp "$dir/sums" "$dir/again"

# A fold's networks say of a scan that they were tested on what predictions.csv has, to the last bit.
maps=$(echo "$dir"/cohort/derivatives/*/sub-01/anat)
qsm=$maps/sub-01_Chimap.nii.gz r2star=$maps/sub-01_R2starmap.nii.gz basal=$maps/sub-01_desc-basalganglia_mask.nii.gz
t1w=$dir/cohort/sub-01/anat/sub-01_T1w.nii.gz weights=$run/weights
set -- "$qsm" "$r2star" "$t1w" "$basal"
for input in crop full; do
    for subject in sub-01 sub-12; do
        row=$(awk -F, -v input=$input -v s=$subject '$1 == "scan" && $2 == input && $5 == s { print $4, $12 }' "$run/predictions.csv")
        fold=${row% *} p=${row#* }
        says 0 "$subject: probability of HH $(printf %.4f "$p"), not calibrated (research only, not a diagnosis)" --weights "$run" \
            --fold "$fold" --input $input --subject "$dir/cohort/$subject"
        ok "$input, $subject: $(number probability $subject), expected $p" test "$(number probability $subject)" = "$p"
    done
done
ok "its page says so" grep -q '<h1>sub-12: probability of hemochromatosis [.0-9]*, not calibrated</h1>' "$dir/out/sub-12.html"
row=$(awk -F, '$1 == "scan" && $2 == "crop" && $5 == "sub-01" { print $4, $12 }' "$run/predictions.csv")
fold=${row% *} p=${row#* } other=$((3 - fold))
says 0 "sub-01: probability of HH $(printf %.4f "$p")" "$@" --weights "$weights" --fold "$fold"
cp "$dir/log" "$dir/said"
ok "the same by files" test "$(number probability sub-01)" = "$p"
ok "trained on simulated ones" grep -q 'warning: this model was trained on simulated subjects' "$dir/said"
mkdir "$dir/odd"
for map in "$@"; do cp "$map" "$dir/odd"; done
for map in Chimap T1w; do coronal "$dir/odd/sub-01_$map.nii.gz"; done
probable "$dir/odd/sub-01_desc-basalganglia_mask.nii.gz"
says 0 'what is .5 or more counts as mask' --subject "$dir/odd" --weights "$weights" --fold "$fold"
ok "the same in another order, with a mask of probabilities" test "$(number probability sub-01)" = "$p"
says 0 "sub-01: probability of HH" "$@" --weights "$weights" --fold "$fold" --cpu scalar --threads 1
ok "by other kernels: $(number probability sub-01) beside $p" awk -v a="$(number probability sub-01)" -v b="$p" \
    'BEGIN { exit !(a != b && (a - b) ^ 2 < 1e-4) }'
says 3 'no probability: these networks were trained on this scan' "$@" --weights "$weights" --fold "$other"
ok "none in the file" test "$(number probability sub-01)" = null
says 0 'these networks were trained on this scan: what they say is worth nothing' "$@" --weights "$weights" --fold "$other" --anyway
mkdir -p "$dir/unfinished/checkpoint"
ln -s ../run/weights "$dir/unfinished/weights"
: > "$dir/unfinished/checkpoint/config.txt"
says 0 'warning: a run into this folder has not ended' "$@" --weights "$dir/unfinished" --fold "$fold"
rm -r "$dir/unfinished"

# The model of all: of a new scan, found in three ways; of one of the study; of one that is unlike.
new=$dir/new/sub-01
says 0 'sub-01: probability of HH 0.' --model "$model" --subject "$new" --anyway
cp "$dir/log" "$dir/said"
line=$(sed '/warning/d' "$dir/log")
echo "$line" > "$dir/line"
ok "it has a name of the study's" grep -q 'warning: these networks were trained on a subject of this name' "$dir/said"
ok "calibrated, with the folds' range: $line" grep -q ', calibrated 0.*, by the folds. networks 0.* to 0.*less typical' "$dir/line"
p=$(number probability sub-01)
outside=$(sed -n 's/.*"by_fold": \[\(.*\)\].*/\1/p' "$dir/out/sub-01.json" | awk -F', ' -v p="$p" '{ low = high = $1
    for (i = 2; i <= NF; i++) { if ($i < low) low = $i; if ($i > high) high = $i }; print (p < low || p > high) }')
ok "outside of the folds' spread: $outside" test "$(grep -c 'it lies outside of their spread' "$dir/line")" = "$outside"
ok "so on the page" test "$(grep -c 'outside of the spread of the folds' "$dir/out/sub-01.html")" = "$outside"
says 0 "$line" --model "$model" --subject "$(echo "$dir"/new/derivatives/*/sub-01)" --anyway
mkdir "$dir/loose"
cp "$dir"/new/derivatives/*/sub-01/anat/sub-01_*.nii.gz "$new/anat/sub-01_T1w.nii.gz" "$dir/loose"
says 0 "$line" --model "$model" --subject "$dir/loose" --anyway
ok "the same in each way" test "$(number probability sub-01)" = "$p"
if python3 -c '' 2> /dev/null; then
    ok "JSON" python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$dir/out/sub-01.json"
fi
ok "the page is there" grep -q '<h1>sub-01: probability of hemochromatosis' "$dir/out/sub-01.html"
ok "it says what it is" grep -q 'Research only' "$dir/out/sub-01.html"
ok "it loads nothing" sh -c "! grep -E '(src|href)=\"(http|//)' '$dir/out/sub-01.html'"
for name in Chimap R2starmap T1w; do mv "$dir/loose/sub-01_$name.nii.gz" "$dir/loose/map_$name.nii.gz"; done
mv "$dir/loose/sub-01_desc-basalganglia_mask.nii.gz" "$dir/loose/roi_desc-basalganglia_mask.nii.gz"
says 0 'sub-scan: probability of HH 0.' --model "$model" --subject "$dir/loose" --anyway
ok "and without names" test "$(number probability sub-scan)" = "$p"
says 3 'no probability: these networks were trained on this scan' --model "$model" --subject "$dir/cohort/sub-01"
ok "a page of that, too" grep -q '<h1>sub-01: no probability' "$dir/out/sub-01.html"
ok phantom "$bin/make_phantom" --out "$dir/far" --hh 1 --hc 1 --scale paper --seed 9
says 3 'no probability: the scan is unlike those of the study: voxel size to the right, mm' --model "$model" \
    --subject "$dir/far/sub-01"
says 0 'probability of HH 0.' --model "$model" --subject "$dir/far/sub-01" --anyway
real=../shared/data/cohort16/sub-01
if [ -d "$real" ]; then says 3 'no probability: the scan is unlike those of the study' --model "$model" --subject "$real"; fi
ok "20 lines of C" "$bin/new_scan" "$model" "$@"
cp "$dir/log" "$dir/said"
ok "say the same" grep -q "^refused: a scan of the study" "$dir/said"

# A study of other groups, whose maps say how they were made: of echoes the same are made, and its names are used.
ok "echoes" "$bin/make_phantom" --out "$dir/echoes" --echoes --hh 1 --hc 1 --size 48x56x32 --seed 4
ok "their maps" "$bin/maps" --data "$dir/echoes" --out "$dir/maps" --subject 01 --mode consensus --sharp-radius 5
cp -r "$dir/cohort" "$dir/named"
sed 's/HH$/patient/; s/HC$/a control/' "$dir/cohort/participants.tsv" > "$dir/named/participants.tsv"
for chimap in "$dir"/named/derivatives/*/sub-*/anat/*_Chimap.nii.gz; do
    cp "$dir/maps/sub-01/anat/sub-01_Chimap.json" "${chimap%.nii.gz}.json"
done
ok "other groups" "$bin/crossval" --data "$dir/named" --out "$dir/named-run" $small --epochs1 1 --epochs2 1 --max-slices 3 \
    --input crop --channels qsm --positive patient --negative 'a control' --final
says 0 'sub-01: probability of patient 0.' --model "$dir/named-run/model" --subject "$dir/echoes/sub-01" --anyway
ok "with the study's settings" grep -q 'maps were made of 6 echoes, mode consensus, as the study.s' "$dir/log"
ok "so says the file" grep -q '"maps_as_study": 1' "$dir/out/sub-01.json"
for name in Chimap R2starmap T1w; do
    ok "the $name of program maps" cmp "$dir/out/maps/sub-01/anat/sub-01_$name.nii.gz" "$dir/maps/sub-01/anat/sub-01_$name.nii.gz"
done
p=$(number probability sub-01)
ok "no word of another mode" sh -c "! grep 'these in the mode' '$dir/log' '$dir/out/sub-01.html'"
cp -r "$dir/out" "$dir/kept"
says 0 "the study's maps were made in the mode consensus, these in the mode paper (--mode)" \
    --model "$dir/named-run/model" --subject "$dir/echoes/sub-01" --anyway --mode paper
ok "the page says so, too" grep -q 'made in the mode consensus, these in the mode paper' "$dir/out/sub-01.html"
rm -r "$dir/out"
mv "$dir/kept" "$dir/out"
ok "the names" grep -q '<h1>sub-01: probability of patient .*</h1>' "$dir/out/sub-01.html"
ok "and no others" sh -c "! sed 's/href=\"[^\"]*\"//g' '$dir/out/sub-01.html' | grep -e '\bHH\b' -e '\bHC\b' -e hemochromatosis"
anat=$dir/maps/sub-01/anat
mask=$(echo "$dir"/echoes/derivatives/*/sub-01/anat/sub-01_desc-basalganglia_mask.nii.gz)
set -- "$anat/sub-01_Chimap.nii.gz" "$anat/sub-01_R2starmap.nii.gz" "$anat/sub-01_T1w.nii.gz" "$mask"
says 0 'sub-01: probability of patient 0.' --model "$dir/named-run/model" "$@" --anyway
ok "the same by files" test "$(number probability sub-01)" = "$p"
mkdir "$dir/one"
cp "$1" "$4" "$dir/one"
says 0 'sub-01: probability of patient 0.' --model "$dir/named-run/model" --subject "$dir/one" --anyway
ok "the same by QSM and mask alone" test "$(number probability sub-01)" = "$p"
rm "$dir"/one/*mask*
says 1 'sub-01: no file of the R2* map, in which the basal ganglia are found where there is no mask' \
    --model "$dir/named-run/model" --subject "$dir/one" --anyway
mkdir "$dir/nan"
for map in "$@"; do cp "$map" "$dir/nan"; done
bytes_at "$dir/nan/sub-01_Chimap.nii.gz" 352 "$(printf '\\000\\000\\300\\177%.0s' 1 2 3 4 5 6)"
says 0 'sub-01_Chimap.nii.gz: 6 voxels of NaN or infinity outside of the head become 0' --model "$dir/named-run/model" \
    --subject "$dir/nan" --anyway
ok "the same with NaN outside of the head" test "$(number probability sub-01)" = "$p"
says 0 'sub-01: probability of patient 0.' --weights "$dir/named-run" --fold 2 "$@"
ok "20 lines of C know the names" sh -c "'$bin/new_scan' '$dir/named-run/model' '$1' '$2' '$3' | grep -q -e '^P(patient)' -e ^refused"
cp -r "$dir/echoes/sub-01" "$dir/loose-echoes"
says 0 "does not say how the study's maps were made: these are made in the mode paper (--mode)" --model "$model" \
    --subject "$dir/loose-echoes/anat" --anyway
rm "$dir/loose-echoes/anat/sub-01_echo-3_part-phase_MEGRE.nii.gz"
says 1 'is there without its phase' --model "$model" --subject "$dir/loose-echoes/anat"
says 1 'no echoes to make it of, such as sub-01_echo-1_part-mag_MEGRE.nii.gz' --model "$model" --subject "$dir/cohort/sub-01/anat"
cp "$anat/sub-01_Chimap.nii.gz" "$dir/echoes/sub-01/anat"
says 1 '--echoes makes all maps of its echoes' --model "$model" --subject "$dir/echoes/sub-01"
set -- "$qsm" "$r2star" "$t1w" "$basal"

# Folders and pairs that are wrong.
broken() # part of the sentence, what to do in a copy of the model, made of links...
{
    part=$1
    shift
    rm -rf "$dir/broken"
    mkdir "$dir/broken"
    ln "$model"/*.safetensors "$dir/broken"
    (cd "$dir/broken" && "$@")
    says 1 "$part" --model "$dir/broken" --subject "$new"
}
broken 'broken/model.safetensors: ' rm model.safetensors
broken 'broken/fold02-qnet.safetensors: ' rm fold02-qnet.safetensors
broken 'broken/fold01-resnetswa.safetensors: ' sh -c 'rm fold01-resnetswa.safetensors; : > fold01-resnetswa.safetensors'
broken 'trained on the features of' ln -f fold01-resnetswa.safetensors fold02-resnetswa.safetensors
broken 'is not of the training that' sh -c 'ln -f fold01-resnetswa.safetensors resnetswa.safetensors; ln -f fold01-qnet.safetensors qnet.safetensors'
broken 'expected final, found qnet' ln -f qnet.safetensors model.safetensors
broken 'are the two files swapped?' ln -f qnet.safetensors resnetswa.safetensors
says 1 'none/model.safetensors' --model "$dir/none" --subject "$new"
says 1 "the model lies in --model $run/model" --model "$run" --subject "$new"
rm -r "$dir/named-run/model"
says 1 'crossval with --final makes a model' --model "$dir/named-run" --subject "$new"
says 1 'of this input and repeat there are --fold 1 to 2' "$@" --weights "$run" --fold 9
says 1 'to be the output folder of crossval' "$@" --weights "$dir/cohort" --fold 1
says 1 "full-repeat01-fold03-resnetswa.safetensors" "$@" --weights "$weights" --fold 3 --input full

# Maps and the command line.
says 1 'sub-01_R2starmap.nii.gz: looks like R2*: are QSM and R2* swapped?' "$r2star" "$qsm" "$t1w" "$basal" --model "$model"
says 1 '; if it is right, give --any-values' "$r2star" "$qsm" "$t1w" --model "$model"
ok "the same without a mask, each map once" test "$(grep -c 'are QSM and R2. swapped?' "$dir/log")" = 2 -a "$(wc -l < "$dir/log")" = 2
says 1 'sub-01_T1w.nii.gz: is no mask' "$qsm" "$r2star" "$t1w" "$t1w" --model "$model"
says 1 'none.nii' "$dir/none.nii" "$r2star" "$t1w" "$basal" --model "$model"
says 1 'sub-99' --model "$model" --subject "$dir/cohort/sub-99"
says 1 'holds files of sub-01 and of sub-' --model "$model" --subject "$dir/new/derivatives"
says 2 'expected a model' "$@"
says 2 'expected the fold' "$@" --weights "$weights"
says 2 '--fold 1x: expected a whole number' "$@" --weights "$weights" --fold 1x
says 2 '--mode x: expected paper or consensus' "$@" --model "$model" --mode x
says 2 '--input both: expected crop or full' "$@" --weights "$weights" --fold 1 --input both
says 2 'did you mean --model?' --modl x
says 2 '--cpu x: expected auto, scalar' --cpu x
says 2 'files: expected --subject FOLDER' "$qsm" "$r2star" --model "$model"
says 2 'files: expected --subject FOLDER' "$@" --model "$model" --subject "$new"
says 0 'usage: predict --model FOLDER' --help
rm -rf "$dir"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
