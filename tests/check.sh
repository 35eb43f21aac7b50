#!/bin/sh
# check.sh BUILD: crossval --check on a phantom cohort and on folders broken in the ways that folders are: all problems at
# once, each with what to do; --exclude and --skip-bad; the estimate.
bin=$1
dir=$1/check-test
. tests/shell.sh

small="--input crop --size 32 --folds 2 --max-slices 8 --epochs1 1 --epochs2 1 --batch 16 --bootstrap 50 --seed 7 --weights $dir/start"
ok start "$bin/tests/test_weights" "$dir/start"
maps=derivatives/qsm
copy() { rm -rf "$dir/bad"; cp -r "$dir/cohort" "$dir/bad"; }
file() { echo "$dir/bad/$maps/sub-$1/anat/sub-$1_$2.nii.gz"; } # subject, map
checked() # what, exit status, number of problems, options...; for eight scans, quietly, as the estimate takes time
{
    what=$1 status=$2 problems=$3
    shift 3
    "$bin/crossval" --check --data "$dir/bad" --out "$dir/page" $small --quiet "$@" > "$dir/stdout" 2> "$dir/stderr"
    ok "$what: exit status $status" test $? = "$status"
    page=$dir/page/check.html
    ok "$what: a picture of each scan" test "$(grep -c '<figure id="s' "$page")" = $((8 - ${missing:-0}))
    ok "$what: $problems problems" grep -q "<b>$problems</b><span>problem" "$page"
}
said() # sentence: on the terminal, and on the page, where quotes are escaped and the data folder is left out
{
    ok "\"$1\"" grep -q -F -e "$1" "$dir/stderr"
    part=$(echo "$1" | sed "s|$dir/bad/||g; s/\"/\&#34;/g; s/^sub-0[0-9]: //")
    ok "page: \"$part\"" sh -c 'sed "s/<[^>]*>//g" "$1" | grep -q -F -e "$2"' sh "$page" "$part"
}

ok phantom "$bin/make_phantom" --out "$dir/cohort" --hh 4 --hc 4 --scale small --seed 3

copy
checked "a good folder" 0 0
ok "nothing to complain of" test ! -s "$dir/stderr"
ok "four panels for each" test "$(grep -c 'class="pan"' "$page")" = 32
ok "right and left" test "$(grep -c '>R</text>.*>L</text>' "$page")" = 32
ok "the box" test "$(grep -c 'class="bx"' "$page")" = 24
ok "the mask" test "$(grep -c 'class="mk"' "$page")" = 32
ok "the slices" test "$(grep -c 'class="sl"' "$page")" = 8
ok "the page loads nothing" sh -c "! grep -E '(src|href)=\"(http|//)' '$page'"
ok "nothing but the page" test "$(ls "$dir/page")" = check.html
ok "--quiet: no word" test ! -s "$dir/stdout"
pictures() { sed -n "/<figure id=\"s$1\"/,/<\/figure>/p" "$2" | grep '<svg'; } # of scan $1 on page $2
cp "$page" "$dir/good.html"
bin=$(cd "$bin" && pwd)
sed 's/HH$/a patient/; s/HC$/control/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
(cd "$dir" && "$bin/crossval" --check --data bad $small --positive 'a patient' --negative control) > "$dir/stdout" 2>&1
ok "without --out the page lies here" test -s "$dir/check.html"
ok "a row for each scan" test "$(grep -c '^sub-0[1-8]  .*  96x112x14 .* ok$' "$dir/stdout")" = 8
ok "in columns" test "$(awk '/^scan|^sub-0/ { print index($0, /^scan/ ? "grid" : "96x112x14") }' "$dir/stdout" | sort -u | wc -l)" = 1
ok "an estimate" grep -q '^About .*: 64 images of 8 scans, 2 folds' "$dir/stdout"
ok "the last line" sh -c "tail -n 1 '$dir/stdout' | grep -q '^No problems: this cohort can be trained on.'"

# 1. Files that are missing or damaged, of several subjects, and of several maps of one.
copy
rm "$(file 03 R2starmap)"
head -c 3000 "$dir/cohort/$maps/sub-05/anat/sub-05_Chimap.nii.gz" > "$(file 05 Chimap)"
echo hello > "$(file 05 R2starmap)"
rm "$dir"/bad/sub-07/anat/*T1w*
rm "$dir"/bad/sub-08/anat/*T1w*
checked "missing and damaged files" 1 5
said "sub-03: no sub-03_R2starmap.nii.gz or .nii in $dir/bad/sub-03 or $dir/bad/derivatives/*/sub-03; it has"
said "sub-05_Chimap.nii.gz: "
said "sub-05_R2starmap.nii.gz: "
said "sub-07: no sub-07_T1w.nii.gz or .nii in"
ok "what to do" grep -q "put it there, or name it: --derivatives, --filter, --t1w or --maps FILE; the same of 1 other: sub-08" "$dir/stderr"
ok "how to go on" grep -q "5 problems, 4 of 8 scans cannot be used; to leave them out: --skip-bad or --exclude sub-03,sub-05,sub-07,sub-08" \
    "$dir/stderr"
ok "in the page, too" grep -q -e '--exclude sub-03,sub-05,sub-07,sub-08</code>' "$page"
"$bin/crossval" --data "$dir/bad" --out "$dir/run" $small > "$dir/stdout" 2> "$dir/stderr"
ok "a run stops" test $? = 1
ok "and says the same" grep -q "5 problems, 4 of 8 scans cannot be used; --check shows them on a page; to leave them out" "$dir/stderr"
ok "before it begins" test ! -e "$dir/run/checkpoint"

# 2. Values that no brain has.
copy
mv "$(file 02 Chimap)" "$dir/x.nii.gz"
mv "$(file 02 R2starmap)" "$(file 02 Chimap)"
mv "$dir/x.nii.gz" "$(file 02 R2starmap)"
bytes_at "$(file 06 Chimap)" 112 '\000\000\200\077' # scl_slope 1
checked "swapped maps, and ppb" 1 3
said "sub-02_Chimap.nii.gz: looks like R2*: are QSM and R2* swapped? (1 %, half and 99 %"
said "sub-02_R2starmap.nii.gz: looks like susceptibility: are QSM and R2* swapped? (1 %, half and 99 %"
said "sub-06_Chimap.nii.gz: looks like ppb: divide by 1000 (1 %, half and 99 %"
ok "with the option" grep -q "; if it is right, give --any-values" "$dir/stderr"
rm "$dir"/bad/$maps/sub-*/anat/*mask*
bytes_at "$(file 03 Chimap)" 112 '\157\022\203\272' # scl_slope -.001
checked "the same without masks, and a wrong sign" 1 4
said "sub-02_Chimap.nii.gz: looks like R2*: are QSM and R2* swapped? (1 %, half and 99 %"
said "sub-02_R2starmap.nii.gz: looks like susceptibility: are QSM and R2* swapped? (1 %, half and 99 %"
said "sub-03_Chimap.nii.gz: of the wrong sign, as GE"
said "sub-06_Chimap.nii.gz: looks like ppb: divide by 1000 (1 %, half and 99 %"

# 3. Masks: empty, and none.
copy
bytes_at "$(file 01 desc-basalganglia_mask)" 112 '\000\000\000\000' # no slope
gzip -dc "$(file 01 desc-basalganglia_mask)" | head -c 352 > "$dir/empty.nii"
gzip -dc "$(file 01 desc-basalganglia_mask)" | tail -c +353 | tr '\001-\377' '\000' >> "$dir/empty.nii"
gzip -1c "$dir/empty.nii" > "$(file 01 desc-basalganglia_mask)"
cp "$dir/bad/sub-04/anat/sub-04_T1w.nii.gz" "$(file 04 desc-basalganglia_mask)"
checked "masks" 1 2
said "sub-01_desc-basalganglia_mask.nii.gz: no voxel is .5 or more, the mask is empty"
said "sub-04_desc-basalganglia_mask.nii.gz: is no mask: expected 0 and 1, up to 64 labels, or a probability in 0..1, found"
ok "what to do" grep -q "draw it anew, or give --slices FIRST:N and --center X,Y for all" "$dir/stderr"

# 4. The table of participants.
copy
sed '2s/H[HC]/PD/; 3s/H[HC]/MSA/; 5p; 9s/$/\tmore/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
rm "$(file 02 R2starmap)"
echo hello > "$(file 03 Chimap)"
missing=1 # whose line cannot be read
checked "participants.tsv" 1 5
missing=0
said "participants.tsv: line 10: expected 4 fields as in the first line, found 5; the line is"
said "sub-02: no sub-02_R2starmap.nii.gz"
said "sub-03_Chimap.nii.gz: "
said "participants.tsv: line 2, group: expected HH or HC (--positive NAME --negative NAME are for other groups), found \"PD\"; so in 2 lines"
said "participants.tsv: line 6, participant_id: sub-04 is there twice"
ok "who cannot be used" grep -q -e '--exclude sub-01,sub-02,sub-03,sub-04$' "$dir/stderr"
sed '1s/group/diagnosis/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
checked "no column of groups" 1 4 --subgroups site
said "--subgroups: $dir/bad/participants.tsv has no column site; its columns are participant_id, age, sex, diagnosis"
said "--group-column NAME is for another one"
ok "no line to mend" sh -c "! grep 'mend that line' '$dir/stderr'"
said "sub-02: no sub-02_R2starmap.nii.gz"
sed 's/HH$/patient/; s/HC$/control/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
checked "other groups" 1 3
said "(--positive NAME --negative NAME are for other groups)"
said "sub-02: no sub-02_R2starmap.nii.gz"
"$bin/crossval" --check --data "$dir/bad" --out "$dir/page" $small > "$dir/stdout" 2> "$dir/stderr"
ok "all are in the table" test "$(grep -c '^sub-0[1-8]  *? ' "$dir/stdout")" = 8

copy
sed '9s/$/\tmore/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
ok "--skip-bad, a line that cannot be read" "$bin/crossval" --data "$dir/bad" --out "$dir/line" $small --skip-bad
ok "which it is" grep -q "participants.tsv: line 9: expected 4 fields as in the first line, found 5" "$dir/log"
ok "in the report, too" grep -q "line 9: expected 4 fields" "$dir/line/report.html"

# 5. A map that lies elsewhere in the world, one person under two names, too many folds.
copy
bytes_at "$dir/bad/sub-03/anat/sub-03_T1w.nii.gz" 292 '\000\000\172\104' # srow_x[3] = 1000 mm
cp "$(file 04 Chimap)" "$(file 08 Chimap)"
checked "another place, a copy, folds" 1 3 --folds 5
said "sub-03_T1w.nii.gz: its grid of 96x112x14 shares no voxel with that of"
said "sub-04 and sub-08 have the same QSM map; if it is right, give --any-values"
said "--folds: 5 asked for, but there are only 4 HC subjects"
ok "what to do" grep -q "register it to the QSM map, or copy the header that it lost" "$dir/stderr"
ok "a copy is of both" grep -q -e '--exclude sub-03,sub-04,sub-08$' "$dir/stderr"
checked "--skip-bad" 0 2 --skip-bad
ok "may be trained on" grep -q '<h1>Ready, without what has a problem</h1>' "$page"
checked "--skip-bad, too many folds" 1 3 --skip-bad --folds 4
ok "may not" grep -q '<h1>Not ready' "$page"
said "--folds: 4 asked for, but there are only 3 HC subjects"
ok "and nothing else" test "$(grep -v warning: "$dir/stderr" | wc -l)" = 1

# Odd, but accepted.
copy
sed '2s/\t[0-9]*\t/\tn\/a\t/' "$dir/cohort/participants.tsv" > "$dir/bad/participants.tsv"
mask=$(file 04 desc-basalganglia_mask) slice=21504
gzip -dc "$mask" > "$dir/whole.nii"
{
    head -c 352 "$dir/whole.nii"
    head -c $((5 * slice)) /dev/zero
    tail -c +$((353 + 5 * slice)) "$dir/whole.nii" | head -c $((3 * slice))
    head -c $((6 * slice)) /dev/zero
} | gzip -1c > "$mask"
checked "an unknown age, a mask of three slices, and four that are used" 0 0 --max-slices 4
ok "one mask is small" test "$(grep -c '<p class="warning">only 3 slices hold the mask: is it whole?' "$page")" = 1
ok "not the others" test "$(grep -c 'is it whole' "$page")" = 2 # and in the list of warnings
ok "in the page" grep -q '<a href="#s0">sub-01</a> age not known' "$page"
copy
for map in Chimap R2starmap desc-basalganglia_mask; do coronal "$(file 03 $map)"; done
coronal "$dir/bad/sub-03/anat/sub-03_T1w.nii.gz"
coronal "$(file 04 R2starmap)"
for s in 06 07; do probable "$(file $s desc-basalganglia_mask)"; done
bytes_at "$(file 08 Chimap)" 116 '\275\067\206\065' # scl_inter 1e-6
checked "other orders of voxels, probabilities, a background" 0 0
ok "five maps are turned" test "$(grep -c 'acquired coronal are cut anew as axial' "$page")" = 5
ok "sub-03: its axes" grep -q '>96x14x112</td><td>1.72x2.00x1.72</td><td>RSA<' "$page"
ok "sub-06: told once" sh -c "grep -q 'what is .5 or more counts as mask. The same of 1 other: sub-07' '$page'"
ok "sub-08: a background" grep -q 'QSM: a third of its voxels or more are 1e-06: a background that is not 0' "$page"
for i in 2 3 5 6; do
    pictures $i "$dir/good.html" > "$dir/expected"
    pictures $i "$page" > "$dir/found"
    ok "scan $i: the same pictures" cmp "$dir/expected" "$dir/found"
done

# Left out by name, from a list or a file, or for its problems: the same run, and by the maps as they were the same bits.
cp "$(file 04 Chimap)" "$(file 08 Chimap)"
echo hello > "$(file 05 R2starmap)"
rm "$(file 02 Chimap)"
small="$small --input both --max-slices 3"
ok "--skip-bad" "$bin/crossval" --data "$dir/bad" --out "$dir/skipped" $small --skip-bad
cp "$dir/log" "$dir/printed"
ok "is said" grep -q "crossval: warning: 4 of 8 scans have problems and are left out (--skip-bad): sub-02, sub-04, sub-05, sub-08" "$dir/printed"
ok "a warning of a scan is told once" test "$(grep -c '^crossval: warning: .*sub-06.*what is .5 or more' "$dir/printed")" = 1
ok "the estimate comes first" grep -q '^20.* About .*: 12 images of 4 scans, 2 folds x 2 inputs, each' "$dir/printed"
ok "--exclude" "$bin/crossval" --data "$dir/cohort" --out "$dir/excluded" $small --exclude sub-02,05,04,08 --quiet
ok "--quiet: no estimate" test ! -s "$dir/log"
printf '02\nsub-05\n04\n08' > "$dir/list"
missing=4
checked "--exclude @FILE" 0 0 --exclude "@$dir/list"
ok "the same predictions" cmp "$dir/skipped/predictions.csv" "$dir/excluded/predictions.csv"
ok "the manifest says who and why" grep -q '"left_out": \[' "$dir/skipped/manifest.json"
ok "with the reason" grep -q '{"subject": "sub-02", "session": "", "why": "sub-02: no sub-02_Chimap.nii.gz' "$dir/skipped/manifest.json"
ok "so does results.json" grep -q '{"subject": "sub-05", "session": "", "why": "--exclude"}' "$dir/excluded/results.json"
ok "so does the page" grep -q '<li>4 scans were left out before training: sub-02 (sub-02: no sub-02_Chimap' "$dir/skipped/report.html"
"$bin/crossval" --data "$dir/cohort" --out "$dir/none" $small --exclude sub-99 > "$dir/stdout" 2> "$dir/stderr"
ok "a misspelt name" grep -q -e '--exclude: sub-99 is no participant of' "$dir/stderr"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
