#!/bin/sh
# layouts.sh BUILD: the folders that people have, made of ../shared/data/cohort16 by links: each is found, or refused with
# the sentence that says what to type.
bin=$1
dir=$1/layouts-test
from=$(cd ../shared/data/cohort16 2> /dev/null && pwd)
if [ ! -f "$from/participants.tsv" ]; then
    echo "layouts: skipped, there is no ../shared/data/cohort16"
    echo "0 passed, 0 failed"
    exit 0
fi
. tests/shell.sh

# new: an empty folder with the table; put: one kind of file of all subjects, at the place that is given.
new() { rm -rf "$dir/bad" "$dir/maps.tsv"; mkdir "$dir/bad"; cp "$from/participants.tsv" "$dir/bad"; }
put() # kind, place with @ for the subject
{
    for s in 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16; do
        place=$dir/bad/$(echo "$2" | sed "s/@/$s/g")
        mkdir -p "${place%/*}"
        case $1 in
        T1w) ln -s "$from/sub-$s/anat/sub-${s}_T1w.nii.gz" "$place" ;;
        *) ln -s "$from/derivatives/maps/sub-$s/anat/sub-${s}_$1.nii.gz" "$place" ;;
        esac
    done
}
mask() { put desc-basalganglia_mask "${1:-derivatives/roi/sub-@/sub-@_desc-basalganglia_mask.nii.gz}"; }
t1w() { put T1w "${1:-sub-@/anat/sub-@_T1w.nii.gz}"; }
maps() { put Chimap "$1_Chimap.nii.gz"; put R2starmap "$1_R2starmap.nii.gz"; }
found() # what, number of scans, options...
{
    what=$1 n=$2
    shift 2
    ok "$what" "$bin/crossval" --data "$dir/bad" --write-maps "$dir/maps.tsv" "$@"
    ok "$what: $n scans with all maps" test "$(grep -c '^sub-[0-9]*.*Chimap.*R2starmap.*T1w.*mask' "$dir/maps.tsv")" = "$n"
    ok "$what: nothing missing" sh -c "! cut -f 3- '$dir/maps.tsv' | grep n/a"
    rm -f "$dir/maps.tsv"
}
said() # what, sentence, options...
{
    what=$1 part=$2
    shift 2
    "$bin/crossval" --data "$dir/bad" --out "$dir/none" "$@" > "$dir/stdout" 2> "$dir/refusal"
    ok "$what: exit status 1" test $? = 1
    ok "$what: \"$part\"" grep -q -F -e "$part" "$dir/refusal"
    ok "$what: once for all subjects" sh -c "! grep '^crossval: sub-02' '$dir/refusal'"
}

new; maps derivatives/maps/sub-@/anat/sub-@; t1w; mask
found "plain" 16
new; maps derivatives/qsmxt-2024-05-01/sub-@/ses-1/anat/sub-@_ses-1_run-1; t1w sub-@/ses-1/anat/sub-@_ses-1_run-1_T1w.nii.gz; mask
found "QSMxT" 16
maps derivatives/qsmxt-2024-05-01/sub-@/ses-2/anat/sub-@_ses-2_run-1
t1w sub-@/ses-2/anat/sub-@_ses-2_run-1_T1w.nii.gz
found "two sessions" 32
found "one of them" 16 --session ses-2
said "no such session" '; its sessions are 1, 2; choose with --session 1' --session 3
maps derivatives/qsmxt-2024-05-01/sub-@/ses-2/anat/sub-@_ses-2_run-2
said "two runs" 'choose with --filter run=1'
found "--filter" 16 --session=2 --filter=run=01
new; maps derivatives/SEPIA/sub-@/Sepia; t1w; mask
found "SEPIA" 16
put Chimap derivatives/medi/sub-@/anat/sub-@_Chimap.nii.gz
said "two tools" 'choose with --derivatives SEPIA'
found "--derivatives" 16 --derivatives medi,SEPIA
new; put Chimap derivatives/a/sub-@/anat/sub-@_Chimap.nii.gz; put R2starmap derivatives/b/sub-@/anat/sub-@_R2starmap.nii.gz; t1w; mask
found "maps of several tools" 16
mask derivatives/more/sub-@/sub-@_desc-basalganglia_mask.nii.gz
said "two masks" 'choose with --derivatives a,more'
found "the right one" 16 --derivatives a,b,roi
new; maps sub-@/anat/sub-@; t1w sub-@/anat/sub-@_acq-mprage_T1w.nii.gz; t1w sub-@/anat/sub-@_acq-stage_T1w.nii.gz; mask
said "two T1W" 'choose with --t1w *_acq-mprage_*'
found "--t1w" 16 --t1w '*_acq-stage_*'
found "--t1w without the ending" 16 --t1w '*_acq-stage_T1w'
said "--t1w of none" 'sub-01: no *_MP2RAGE.nii.gz or .nii in' --t1w '*_MP2RAGE'
new; maps sub-@/anat/sub-@; mask
said "no T1W" 'sub-01: no sub-01_T1w.nii.gz or .nii in'
new; maps sub-@/anat/sub-@; t1w
ok "no mask" "$bin/crossval" --data "$dir/bad" --write-maps "$dir/maps.tsv"
ok "no mask: it need not be there" test "$(grep -c 'T1w.nii.gz.n/a$' "$dir/maps.tsv")" = 16
rm -f "$dir/maps.tsv"
new; maps derivatives/maps/sub-@/anat/sub-@; t1w; mask
sed 's/group/diagnosis/; s/HH/patient/; s/HC/control/; s/\t/;/g' "$from/participants.tsv" > "$dir/bad/participants.tsv"
said "another column" '--group-column NAME'
said "other groups" '--positive NAME --negative NAME' --group-column diagnosis
found "another disease" 16 --group-column diagnosis --positive patient --negative control
sed 's/^\(sub-0[12].*\)H[HC]$/\1n\/a/' "$from/participants.tsv" > "$dir/bad/participants.tsv"
found "n/a groups" 14
# Four subjects, whose files are read, some of them changed.
few() # what sed does to the table
{
    rm -rf "$dir/bad"
    mkdir "$dir/bad"
    sed -n '1,5p' "$from/participants.tsv" | sed "${1:-}" > "$dir/bad/participants.tsv"
    for s in 01 02 03 04; do
        mkdir -p "$dir/bad/sub-$s/anat" "$dir/bad/derivatives/maps/sub-$s"
        ln -s "$from/sub-$s/anat/sub-${s}_T1w.nii.gz" "$dir/bad/sub-$s/anat"
        for f in "$from/derivatives/maps/sub-$s/anat"/*; do ln -s "$f" "$dir/bad/derivatives/maps/sub-$s"; done
    done
}
file() # subject, map
{
    if [ "$2" = T1w ]; then echo "$dir/bad/sub-$1/anat/sub-$1_T1w.nii.gz"
    else echo "$dir/bad/derivatives/maps/sub-$1/sub-$1_$2.nii.gz"; fi
}
patch() # subject, map, offset, bytes as \ooo: a copy in the place of the link
{
    gzip -dc "$(file "$1" "$2")" > "$dir/patch.nii"
    printf "$4" | dd of="$dir/patch.nii" bs=1 seek="$3" conv=notrunc 2> /dev/null
    rm "$(file "$1" "$2")"
    gzip -1c "$dir/patch.nii" > "$(file "$1" "$2")"
}
turn() # bytes of the affine's rows, which become those of all maps
{
    for map in Chimap R2starmap T1w desc-basalganglia_mask; do
        for s in 01 02 03 04; do patch $s $map 252 '\000\000' && patch $s $map 280 "$1"; done
    done
}
checks() # what, exit status, part of what it says or "" (nothing), options...
{
    what=$1 status=$2 part=$3
    shift 3
    "$bin/crossval" --check --data "$dir/bad" --out "$dir/none" --folds 2 --input crop --quiet "$@" > "$dir/refusal" 2>&1
    ok "$what: exit status $status; $(head -c 300 "$dir/refusal")" test $? = "$status"
    if [ "$part" ]; then ok "$what: \"$part\" in $(head -c 300 "$dir/refusal")" grep -q -F -e "$part" "$dir/refusal"
    else ok "$what: without a word, but $(head -c 300 "$dir/refusal")" test ! -s "$dir/refusal"; fi
}
shown() { ok "$1: \"$2\" on the page" grep -q -F -e "$2" "$dir/none/check.html"; }

few; checks "as it is" 0 ""
few '1s/.*/Participant_ID\tAge\tSex\tGroup/; 2s/sub-//; s/\tM\t/\tmale\t/; s/\tF\t/\tFemale\t/'
checks "names and spellings" 0 ""
few 's/$/\r/; 1s/^/\xef\xbb\xbf/'; checks "CRLF and a mark" 0 ""
few '2s/\t[0-9]*\t/\t89+\t/; 3s/\t[0-9]*\t/\t062Y\t/; 4s/\t[0-9]*\t/\t62,5\t/; 5s/\t[0-9]*\t/\tN\/A\t/'
checks "ages" 0 ""; shown "89+" "HC 89 "; shown "062Y" "HC 62 "; shown "N/A" "age not known"
few '2s/\t[MF]\t/\tU\t/; 3s/\t[MF]\t/\tn\/a\t/'; checks "sex U, n/a" 0 ""; shown "of two" "sex not known"
few 's/^/"/; s/\t/","/g; s/$/"/'; checks "commas and quotes" 0 ""
few 's/HH$/1/; s/HC$/0/'; checks "groups 0 and 1" 0 "" --positive 1 --negative 0
checks "groups without options" 1 '(--positive NAME --negative NAME are for other groups), found "0"; so in 4 lines'
few '3s/$/\t/'; checks "a tab too many" 1 'line 3: expected 4 fields as in the first line, found 5; the line is'
few '1s/.*/p\x00a\x00/'; checks "UTF-16" 1 'a zero byte (UTF-16 has them: save the table as UTF-8)'
few; rm "$(file 02 Chimap)"; checks "one without maps" 1 'sub-02: no sub-02_Chimap.nii.gz or .nii in'
few; patch 02 T1w 292 '\364\375\263\302'; checks "T1W 4 um off" 0 ""
if [ -f "${from%/cohort16}/t1/colin27_brain.nii.gz" ]; then
    few; for s in 01 02 03 04; do ln -sf "${from%/cohort16}/t1/colin27_brain.nii.gz" "$(file $s T1w)"; done
    checks "T1W of 1 mm" 0 ""; shown "its grid" "resampled"
fi
few; patch 01 T1w 252 '\000\000'; patch 01 T1w 280 '\000\000\240\277\000\000\000\000\000\000\000\000\000\200\261\102'
checks "LAS beside RAS" 0 ""
few; turn '\000\000\240\077\000\000\000\000\000\000\000\000\000\000\264\302\000\000\000\000\317\131\226\077\104\035\057\277\042\353\264\302\000\000\000\000\225\344\332\076\262\217\360\077\344\333\151\302'
checks "oblique by 20 degrees" 0 ""
turn '\000\000\240\077\000\000\000\000\000\000\000\000\000\000\264\302\000\000\000\000\051\261\115\077\175\033\304\277\067\156\104\302\000\000\000\000\134\042\165\077\273\215\244\077\040\271\277\302'
checks "oblique by 50 degrees" 1 'give --any-orientation'
few; patch 03 R2starmap 112 '\315\314\314\075'; checks "R2* ten times too high" 1 'R2starmap.nii.gz: '
few; patch 03 Chimap 112 '\315\314\314\075'; checks "QSM in ppb" 1 'sub-03_Chimap.nii.gz: looks like ppb: divide by 1000'
few; patch 04 desc-basalganglia_mask 352 '\001'; checks "a stray voxel of the mask" 0 ""; shown "left out" "1 voxels in 1 pieces of less than a fiftieth"
few; patch 01 Chimap 0 '\034\002\000\000'; checks "NIfTI-2" 1 'NIfTI-2'
few; patch 01 T1w 40 '\004\000\220\000\250\000\014\000\002\000'; checks "4-D T1W" 1 'sub-01_T1w.nii.gz: '
few; rm "$dir"/bad/derivatives/maps/*/*_mask*; checks "no mask" 0 ""
checks "slices without a centre, which is found" 0 "" --slices 8:4
checks "slices and a centre" 0 "" --slices 8:4 --center 0,0
checks "more slices than are taken" 1 '--slices FIRST:N: N is' --slices 8:8 --center 0,0 --max-slices 4
few; rm "$dir"/bad/sub-*/anat/*; checks "no T1W" 1 'T1w.nii.gz or .nii in'; checks "QSM alone" 0 "" --channels qsm
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
