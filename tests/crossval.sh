#!/bin/sh
# crossval.sh BUILD: the main job from end to end on a tiny phantom cohort: files, threads, stop and resume, bad input.
bin=$1
dir=$1/crossval-test
. tests/shell.sh

wanted=1 # exit status; 2 for wrong usage
refused() # the sentence must contain, options of crossval...
{
    part=$1
    shift
    "$bin/crossval" --out "$dir/one" $small "$@" > "$dir/stdout" 2> "$dir/log"
    status=$?
    if [ $status = $wanted ] && grep -q -F -e "$part" "$dir/log" && [ "$(wc -l < "$dir/log")" -le 4 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "crossval $*: exit $status, expected $wanted and a few lines with \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
    ok "earlier results stay" cmp -s "$dir/one/results.json" "$dir/results.before"
}

small="--input crop --size 32 --folds 2 --max-slices 8 --epochs1 2 --epochs2 2 --batch 16 --bootstrap 50 --seed 7 --weights $dir/start"
ok start "$bin/tests/test_weights" "$dir/start"
ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 4 --hc 4 --scale small --seed 3
ok "one thread" "$bin/crossval" --data "$dir/cohort" --out "$dir/one" $small --threads 1
cp "$dir/log" "$dir/printed"
ok "tables are printed" grep -q "Table 3" "$dir/printed"
for file in results.json predictions.csv manifest.json report.html weights/crop-repeat01-fold01-resnet.safetensors \
    weights/crop-repeat01-fold02-resnetswa.safetensors weights/crop-repeat01-fold02-qnet.safetensors; do
    ok "$file is there" test -s "$dir/one/$file"
done
for key in '"config"' '"cohort"' '"image_level"' '"scan_level"' '"delong"' '"bootstrap"' '"Q-Net"' '"ResNetSWA"' '"clustered"'; do
    ok "results.json has $key" grep -q -F "$key" "$dir/one/results.json"
done
ok "the page says that its subjects are simulated" grep -q '<h1>.* 8 simulated subjects</h1>' "$dir/one/report.html"
ok "so does the console" grep -q '^Data: qnet.h phantom cohort (simulated). Its subjects are simulated' "$dir/printed"
for file in results.json manifest.json; do ok "so does $file" grep -q '"simulated": 1' "$dir/one/$file"; done
ok "the page loads nothing" sh -c "! grep -E '(src|href)=\"(http|//)' '$dir/one/report.html'"

ok "three threads" "$bin/crossval" --data "$dir/cohort" --out "$dir/three" $small --threads 3 --quiet
ok "quiet is quiet" test ! -s "$dir/log"
ok "same predictions" cmp "$dir/one/predictions.csv" "$dir/three/predictions.csv"
for model in resnet resnetswa qnet; do
    ok "same $model" cmp "$dir/one/weights/crop-repeat01-fold02-$model.safetensors" \
        "$dir/three/weights/crop-repeat01-fold02-$model.safetensors"
done

# Stopped three times at whatever point a second or less brings, resumed, and the same bits in the end.
"$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" $small --checkpoint-seconds 0 > "$dir/stop1" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -f "$dir/stopped/checkpoint/crop-repeat01-fold01-resnet.checkpoint" ]; do sleep 0.05; done
"$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" $small --seed 8 --resume > "$dir/refusal" 2>&1
ok "two runs at once" grep -q "run.lock: another run works in this folder: process $pid on .* since 2" "$dir/refusal"
kill -INT $pid 2> /dev/null
wait $pid
ok "stopped by Ctrl-C" test $? = 130
ok "says how to go on" grep -q -e '--resume' "$dir/stop1"
"$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" $small --checkpoint-seconds 0 --resume > "$dir/stop2" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -f "$dir/stopped/checkpoint/crop-repeat01-fold02-swa.checkpoint" ]; do sleep 0.05; done
kill -KILL $pid 2> /dev/null # not even a chance to tidy up
wait $pid 2> /dev/null
"$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" $small > "$dir/refusal" 2>&1
ok "an unfinished run is not trodden on" grep -q 'unfinished run' "$dir/refusal"
"$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" --resume $small --folds 3 > "$dir/refusal" 2>&1
ok "another configuration is refused" grep -q 'has "--folds 2", this one has "--folds 3"' "$dir/refusal"
ok "resumed" "$bin/crossval" --data "$dir/cohort" --out "$dir/stopped" $small --resume --subgroups sex
ok "an option of the report is no other configuration" grep -q '"column": "sex",' "$dir/stopped/results.json"
ok "resumed: same predictions" cmp "$dir/one/predictions.csv" "$dir/stopped/predictions.csv"
ok "resumed: same weights" cmp "$dir/one/weights/crop-repeat01-fold02-qnet.safetensors" \
    "$dir/stopped/weights/crop-repeat01-fold02-qnet.safetensors"

# A table as it is: commas, quotes, another disease in a column of its own, n/a, units of ages, another column.
rm -rf "$dir/named"; cp -r "$dir/cohort" "$dir/named"
sed '1s/group/Diagnosis/; s/HH$/PD/; s/HC$/Control/; 2,$s/^\(sub-0[1-4]\t[0-9]*\)/\1Y/; 1s/\tD/\tSite&/
    2,$s/\t[PC]/\tA<1>&/; 3s/A<1>/n\/a/; 8,9s/A<1>/b, c/; s/\t/","/g; s/^/"/; s/$/"/' \
    "$dir/cohort/participants.tsv" > "$dir/named/participants.tsv"
echo '"sub-77","40,5","W","x","n/a"' >> "$dir/named/participants.tsv"
echo '"sub-78","89+","Male","x","MSA"' >> "$dir/named/participants.tsv"
least="$small --epochs1 1 --epochs2 1 --max-slices 2" # the smallest run, whose predictions are compared
"$bin/crossval" --data "$dir/named" --out "$dir/named-out" $least --group-column diagnosis --positive pd --negative Control \
    --permute 20 --prevalence 1/50 --subgroups site > "$dir/printed" 2> "$dir/refusal"
ok "they are in the tables" grep -q 'share of pd recognised; specificity: share of Control' "$dir/printed"
ok "in the page" grep -q '<h1>pd or Control? ' "$dir/named-out/report.html"
ok "and nobody else is" sh -c "! grep -i 'hemochromatosis that\|healthy controls\|>HH\|P(HH)' '$dir/named-out/report.html'"
ok "--permute" grep -q '"permutations": 20' "$dir/named-out/results.json"
ok "--prevalence" grep -q '"prevalence": 0.02, "ppv": ' "$dir/named-out/results.json"
ok "--subgroups" grep -q '<td>Site: A&#60;1&#62;</td><td class="n">2</td><td class="n">3</td>' "$dir/named-out/report.html"
ok "each of its values" test "$(grep -A 3 '"column": "Site"' "$dir/named-out/results.json" | tr -d ' \n')" = \
    '"column":"Site","value":"A<1>","hh":2,"hc":3,--"column":"Site","value":"b,c","hh":1,"hc":1,'
ok "a baseline of the maps" grep -q "Mask's means" "$dir/named-out/report.html"
ok "links to where a scan was cut" grep -q 'href="#scan-8"' "$dir/named-out/report.html"
for file in results.json manifest.json; do ok "in $file" grep -q '"pd"' "$dir/named-out/$file"; done
ok "n/a is left out" grep -q '1 participants without a diagnosis (n/a) are left out' "$dir/refusal"
ok "a third group is left out" grep -q '1 participants of other groups are left out: MSA' "$dir/refusal"

cp "$dir/one/results.json" "$dir/results.before"

# Any layout: the table of what is found, and the same files under other names and in sessions.
ok "--write-maps" "$bin/crossval" --data "$dir/cohort" --write-maps "$dir/maps.tsv"
ok "it has all scans" test "$(grep -c '^sub-0[1-8].*Chimap.*R2starmap.*T1w.*mask' "$dir/maps.tsv")" = 8
mkdir "$dir/table"; cp "$dir/cohort/participants.tsv" "$dir/cohort/dataset_description.json" "$dir/table"
ok "--maps" "$bin/crossval" --data "$dir/table" --maps "$dir/maps.tsv" --out "$dir/table-out" $least --quiet
ok "the same predictions as with other names of groups" cmp "$dir/named-out/predictions.csv" "$dir/table-out/predictions.csv"
for s in 01 02 03 04 05 06 07 08; do
    for kind in Chimap R2starmap; do
        mkdir -p "$dir/table/derivatives/SEPIA/sub-$s/ses-1"
        cp "$dir"/cohort/derivatives/*/sub-$s/anat/*_$kind.nii.gz "$dir/table/derivatives/SEPIA/sub-$s/ses-1/Sepia_$kind.nii.gz"
    done
    mkdir -p "$dir/table/sub-$s/ses-1/anat" "$dir/table/derivatives/roi/sub-$s"
    cp "$dir"/cohort/derivatives/*/sub-$s/anat/*_mask.nii.gz "$dir/table/derivatives/roi/sub-$s/"
    t1w="$dir/cohort/sub-$s/anat/sub-${s}_T1w.nii.gz"
    cp "$t1w" "$dir/table/sub-$s/ses-1/anat/sub-${s}_ses-1_acq-stage_T1w.nii.gz"
    cp "$t1w" "$dir/table/sub-$s/ses-1/anat/sub-${s}_ses-1_acq-mprage_T1w.nii.gz"
done
refused 'choose with --t1w *_acq-mprage_*' --data "$dir/table"
ok "SEPIA in sessions" "$bin/crossval" --data "$dir/table" --filter acq=stage --session 1 --write-maps "$dir/sepia.tsv"
ok "all its scans" test "$(grep -c 'ses-1/Sepia_Chimap.*Sepia_R2starmap.*acq-stage_T1w.*mask' "$dir/sepia.tsv")" = 8
printf 'session_id\tage\nses-1\t33\nses-2\t34\n' > "$dir/table/sub-02/sub-02_sessions.tsv"
ok "a run in sessions" "$bin/crossval" --data "$dir/table" --filter acq=stage --out "$dir/sessions" $least --quiet
sed 's/,session$//; s/,1$//' "$dir/sessions/predictions.csv" > "$dir/without.csv"
ok "predictions.csv names them" grep -q '^scan,crop,1,[12],sub-01,0,.*,1$' "$dir/sessions/predictions.csv"
ok "its last column" sh -c "head -n 1 '$dir/sessions/predictions.csv' | grep -q ',d_qnet,session\$'"
ok "otherwise it is the same" cmp "$dir/without.csv" "$dir/table-out/predictions.csv"
ok "the page names them" grep -q 'sub-01, session 1' "$dir/sessions/report.html"
ok "and the age at it is the session's" grep -q '"subject": "sub-02", "session": "1", .*"age": 33' "$dir/sessions/manifest.json"
refused 'in '"$dir"'/table/sub-01/ses-2' --data "$dir/table" --session 2
refused 'with --filter acq=none' --data "$dir/table" --filter acq=none
refused '--filter: expected entity=value' --data "$dir/table" --filter acq

# Bad input: a sentence that names the thing, exit 1, earlier results untouched.
copy() { rm -rf "$dir/bad"; cp -r "$dir/cohort" "$dir/bad"; }
maps=$(cd "$dir/cohort" && echo derivatives/*/sub-01/anat)
copy; rm "$dir/bad/dataset_description.json"
"$bin/make_phantom" --out "$dir/bad" --hh 1 --hc 1 > "$dir/log" 2>&1
ok "make_phantom does not write over a cohort" test $? = 1
ok "and leaves it" cmp "$dir/bad/participants.tsv" "$dir/cohort/participants.tsv"
copy; sed '2s/\t[0-9]*\t/\told\t/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
"$bin/crossval" --data "$dir/bad" --out "$dir/many" $small --folds 50 --quiet > "$dir/stdout" 2> "$dir/refusal"
ok "warnings are not quiet" grep -q '^crossval: warning: .*age' "$dir/refusal"
refused participants.tsv --data "$dir/nowhere"
copy; : > "$dir/bad/participants.tsv"; refused participants.tsv --data "$dir/bad"
copy; sed '2s/H[HC]/PD/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"; refused PD --data "$dir/bad"
copy; sed -n '1p;2p;2p;3,$p' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"; refused sub-01 --data "$dir/bad"
copy; rm "$dir/bad/$maps"/*R2starmap*; refused R2starmap --data "$dir/bad"
copy; head -c 3000 "$dir/cohort/$maps/sub-01_Chimap.nii.gz" > "$dir/bad/$maps/sub-01_Chimap.nii.gz"; refused sub-01_Chimap --data "$dir/bad"
copy; echo hello > "$dir/bad/$maps/sub-01_Chimap.nii.gz"; refused sub-01_Chimap --data "$dir/bad"
copy; cp "$dir/cohort/$maps/sub-01_R2starmap.nii.gz" "$dir/bad/$maps/sub-01_Chimap.nii.gz"
refused 'swapped' --data "$dir/bad"
refused '--any-values' --data "$dir/bad"
copy; rm "$dir/bad/$maps"/*_mask* "$dir/bad"/sub-*/anat/*_T1w*
refused T1w --data "$dir/bad"
ok "no mask of one, no T1W" "$bin/crossval" --data "$dir/bad" --out "$dir/less" $small --epochs1 1 --epochs2 1 --channels r2star --quiet
cp "$dir/log" "$dir/printed"
ok "which is warned of" grep -q 'warning: 1 of 8 scans have no mask.*give --locate' "$dir/printed"
ok "and told" grep -q '"located": 1, "confidence": ' "$dir/less/manifest.json"
ok "its pictures are of R2*" grep -q 'holds three channels: R2\*, and 0 instead of QSM and T1-weighted\.' "$dir/less/report.html"
pictures=$(tr '<' '\n' < "$dir/less/report.html" | awk '/^svg class="heat/ { seen = 1 } /^image x="0"/ && seen {
    all++; flat += length($0) < 400; seen = 0 } /R2\* of a slice, and five/ { sheet = length($0) } END { print (all > 9 && !flat && sheet > 2000) }')
ok "none of which is flat" test "$pictures" = 1
refused 'folds' --data "$dir/cohort" --folds 9
refused '--folds: 2, expected 3 or more with --inner-validation' --data "$dir/cohort" --inner-validation
refused 'other.safetensors' --data "$dir/cohort" --weights "$dir/other.safetensors"
refused 'resnet18' --data "$dir/cohort" --weights "$dir/one/weights/crop-repeat01-fold01-qnet.safetensors"
refused 'found Control, PD, MSA' --data "$dir/named" --group-column Diagnosis --positive HH --negative Control
refused '--group-column NAME is for another one' --data "$dir/named"
refused '(--positive NAME --negative NAME are for other groups)' --data "$dir/named" --group-column diagnosis
refused '--subgroups: '"$dir"'/cohort/participants.tsv has no column site; its columns are participant_id, age, sex, group' \
    --data "$dir/cohort" --subgroups sex,site --skip-bad
copy; printf 'sub-09\t50\tF\tHC\n' >> "$dir/bad/participants.tsv"
refused 'column participant_id has 9 different values, "sub-09" among them; expected up to 8' \
    --data "$dir/bad" --subgroups participant_id
wanted=2
refused '--subgroups a,b,c,d: expected one to three columns' --data "$dir/cohort" --subgroups a,b,c,d
refused '--channels' --data "$dir/cohort" --channels qsm,qsm
refused '--slices' --data "$dir/cohort" --slices 4294967296:3
refused '--seed' --data "$dir/cohort" --seed 18446744073709551616
refused '--size' --data "$dir/cohort" --size 31
refused '--prevalence 2: expected a share between 0 and 1' --data "$dir/cohort" --prevalence 2
refused '--negative' --data "$dir/named" --positive PD
refused '--negative' --data "$dir/named" --positive PD --negative pd
refused '--positive' --data "$dir/named" --positive 'a<b' --negative x
refused '--nonsense: no such option' --data "$dir/cohort" --nonsense 1
refused '--fold: no such option; did you mean --folds?' --data "$dir/cohort" --fold 3
refused '--resme: no such option; did you mean --resume?' --data "$dir/cohort" --resme
refused '--quiet 1: expected no value' --data "$dir/cohort" --quiet=1
refused '--folds 1: expected a whole number' --data="$dir/cohort" --folds=1
refused '--bootstrap --quiet: expected its value' --data "$dir/cohort" --bootstrap --quiet
refused '--write-maps' --data "$dir/cohort" --maps a --write-maps b
wanted=1
ok version sh -c "'$bin/crossval' --version | grep -q '^crossval, qnet.h [0-9]'"
echo precious > "$dir/file"
"$bin/crossval" --data "$dir/cohort" --out "$dir/file/out" $small > /dev/null 2> "$dir/refusal"
ok "unwritable output" grep -q 'file/out' "$dir/refusal"
ok "and the file stays" grep -q precious "$dir/file"
"$bin/crossval" --data "$dir/cohort" --out "$dir/leak" $small --weights "$dir/one/weights/crop-repeat01-fold01-resnet.safetensors" > /dev/null 2> "$dir/refusal"
ok "weights trained on this cohort are refused" grep -q 'trained on subjects of this cohort' "$dir/refusal"
"$bin/crossval" --data "$dir/nowhere" --out "$dir/none" $small > /dev/null 2>&1
ok "a failed start leaves no folder" test ! -e "$dir/none"
ok help sh -c "'$bin/crossval' --help | grep -q shuffle-labels"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
