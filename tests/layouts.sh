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
said "no such session" 'sub-01: no sub-01_Chimap.nii.gz or .nii in' --session 3
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
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
