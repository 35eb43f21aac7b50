#!/bin/sh
# maps.sh BUILD: from simulated echoes to maps, and on to crossval's tables: files, threads, stop and resume, BIDS names,
# sidecars, bad input.
bin=$1
dir=$1/maps-test
. tests/shell.sh

few='--brain-erode 2 --quiet'
wanted=1 # exit status; 2 for wrong usage
refused() # the sentence must contain, options of maps...
{
    part=$1
    shift
    rm -rf "$dir/none"
    "$bin/maps" --out "$dir/none" $few "$@" > "$dir/stdout" 2> "$dir/log"
    status=$?
    if [ $status = $wanted ] && grep -q -F -e "$part" "$dir/log" && [ "$(wc -l < "$dir/log")" = 1 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "maps $*: exit $status, expected $wanted and one line with \"$part\", got:"
        tail -n 5 "$dir/log"
    fi
    ok "nothing half written" sh -c "! find '$dir/none' -name 'sub-*.*' 2> /dev/null | grep ."
}
copy() { rm -rf "$dir/bad"; mkdir -p "$dir/bad"; cp -r "$dir/cohort/sub-01" "$dir/bad"; }
same() # what, folder, folder: the same images
{
    for file in Chimap R2starmap T1w desc-brain_mask desc-qsm_mask; do
        ok "$1: same $file" cmp "$2/sub-01/anat/sub-01_$file.nii.gz" "$3/sub-01/anat/sub-01_$file.nii.gz"
    done
}
region() # column, row of the table on a page
{
    sed -n "s/<tr><td>$2<\/td>//p" "$page" | sed 's/<[^>]*>/ /g; s/&plusmn;/ /g' | awk "{ print \$$1 }"
}
said() { cp "$dir/log" "$dir/said"; ok "says $1" grep -q -e "$1" "$dir/said"; } # what the last command printed
above() { awk "BEGIN { exit !($1 > $2) }"; }

# The whole way, on one thread and on three.
ok phantom "$bin/make_phantom" --out "$dir/cohort" --echoes --hh 2 --hc 2 --size 48x58x40 --seed 3
ok "the same phantom on one thread" env OMP_NUM_THREADS=1 "$bin/make_phantom" --out "$dir/again" --echoes --hh 2 --hc 2 \
    --size 48x58x40 --seed 3
ok "to the same bits" cmp "$dir/cohort/sub-04/anat/sub-04_echo-6_part-phase_MEGRE.nii.gz" "$dir/again/sub-04/anat/sub-04_echo-6_part-phase_MEGRE.nii.gz"
maps=$dir/cohort/derivatives/qnet
ok "one thread" "$bin/maps" --data "$dir/cohort" --out "$maps" --brain-erode 2 --threads 1
said '^Wrote the maps of 4 of 4 sessions into '
for file in Chimap R2starmap T1w desc-brain_mask desc-qsm_mask; do
    for extension in nii.gz json; do ok "$file.$extension" test -s "$maps/sub-04/anat/sub-04_$file.$extension"; done
done
ok "no T1 of one flip angle" test ! -e "$maps/sub-01/anat/sub-01_T1map.nii.gz"
for key in '"Units": "ppm"' '"BasedOn"' 'sub-01/anat/sub-01_echo-6_part-phase_MEGRE.nii.gz' '"mode": "paper"' '"InputHash"' \
    '"MagneticFieldStrength": 3'; do
    ok "the sidecar has $key" grep -q -F "$key" "$maps/sub-01/anat/sub-01_Chimap.json"
done
ok "dataset_description.json" grep -q '"GeneratedBy"' "$maps/dataset_description.json"
page=$maps/sub-01.html
ok "a page with pictures" test "$(grep -o 'data:image/png' "$page" | wc -l)" = 3
ok "that loads nothing" sh -c "! grep -E '(src|href)=\"(http|//)' '$page'"
ok "no warnings" sh -c "! grep -q 'Read with care' '$page'"
ok "the sign is as expected" grep -q '<b>as expected</b>' "$page"
ok "pallidum above putamen" above "$(region 2 globus_pallidus)" "$(region 2 putamen) + .02"
ok "putamen above white matter" above "$(region 2 putamen)" "$(region 2 white_matter) + .01"
ok "R2* of white matter" above 1 "($(region 4 white_matter) - 20) ^ 2" # 20 1/s is the truth
ok "R2* of the pallidum" above "$(region 4 globus_pallidus)" "$(region 4 putamen) + 5"
ok "three threads" "$bin/maps" --data "$dir/cohort" --out "$dir/three" $few --subject 01 --threads 3
ok "quiet is quiet" test ! -s "$dir/log"
same "three threads" "$maps" "$dir/three"
ok "crossval reads them" "$bin/crossval" --data "$dir/cohort" --out "$dir/tables" --input crop --size 32 --folds 2 \
    --epochs1 1 --epochs2 1 --batch 16 --bootstrap 50
said 'Table 3'

# Resume: what is made of the same stays, what is not is made again.
ok "resume" "$bin/maps" --data "$dir/cohort" --out "$maps" --brain-erode 2 --resume
said 'maps of 0 of 4 sessions into .*; those of 4 were there'
rm "$maps/sub-02/anat/sub-02_T1w.json"
ok "one is incomplete" "$bin/maps" --data "$dir/cohort" --out "$maps" --brain-erode 2 --resume
said 'maps of 1 of 4 sessions into .*; those of 3 were there'
ok "with all its files" test -s "$maps/sub-02/anat/sub-02_T1w.json"
ok "other settings" "$bin/maps" --data "$dir/cohort" --out "$maps" --subject 01 --sharp-radius 7 --mode consensus --background vsharp --resume
said 'maps of 1 of 1 sessions'
ok "by these settings" grep -q '"background": "V-SHARP"' "$maps/sub-01/anat/sub-01_Chimap.json"
ok "by the mode's, too" grep -q '"roll_off": 0.5' "$maps/sub-01/anat/sub-01_Chimap.json"
ok "but for those that are given" grep -q '"sharp_radius": 7' "$maps/sub-01/anat/sub-01_Chimap.json"
ok "the page says so" grep -q 'consensus way' "$page"
"$bin/maps" --data "$dir/cohort" --out "$dir/stopped" --brain-erode 2 > "$dir/stop" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -f "$dir/stopped/sub-01/anat/sub-01_Chimap.nii.gz" ]; do sleep 0.02; done
kill -INT $pid 2> /dev/null
wait $pid
ok "stopped by Ctrl-C" test $? = 130
ok "says how to go on" grep -q -e '--resume' "$dir/stop"
ok "the last is not there" test ! -e "$dir/stopped/sub-04/anat/sub-04_Chimap.nii.gz"
ok "goes on" "$bin/maps" --data "$dir/cohort" --out "$dir/stopped" --brain-erode 2 --resume
said 'those of [1-3] were there'
same "stopped and resumed" "$dir/three" "$dir/stopped"

# Two flip angles; a mask that is given; sessions and runs; sidecars that apply to several images.
ok "two flip angles" "$bin/make_phantom" --out "$dir/flips" --echoes --flips 2 --hh 0 --hc 1 --size 40x48x32
ok "their maps" "$bin/maps" --data "$dir/flips" --out "$dir/flips/derivatives/qnet" $few \
    --mask "$dir/flips/derivatives/phantom/{subject}/anat/{subject}_desc-brain_mask.nii.gz"
page=$dir/flips/derivatives/qnet/sub-01.html
ok "T1 is there" test -s "$dir/flips/derivatives/qnet/sub-01/anat/sub-01_T1map.nii.gz"
ok "five pictures" test "$(grep -o 'data:image/png' "$page" | wc -l)" = 5
ok "T1 of white matter" above .01 "($(region 6 white_matter) - .85) ^ 2" # s
cp -r "$dir/flips" "$dir/one"
rm -r "$dir/one/derivatives/qnet"
echo broken > "$dir/one/sub-01/anat/sub-01_echo-2_flip-2_part-mag_VFA.nii.gz" # of 6 degrees
ok "of which T1 takes one echo" "$bin/maps" --data "$dir/one" --out "$dir/one/derivatives/qnet" $few \
    --mask "$dir/flips/derivatives/phantom/{subject}/anat/{subject}_desc-brain_mask.nii.gz"
ok "the same T1" cmp "$dir/one/derivatives/qnet/sub-01/anat/sub-01_T1map.nii.gz" "$dir/flips/derivatives/qnet/sub-01/anat/sub-01_T1map.nii.gz"
copy; mkdir "$dir/bad/sub-01/ses-1"; mv "$dir/bad/sub-01/anat" "$dir/bad/sub-01/ses-1"
for file in "$dir/bad/sub-01/ses-1/anat"/*; do mv "$file" "${file%/*}/sub-01_ses-1_run-2_${file##*/sub-01_}"; done
for part in mag phase; do
    for echo in 1 2 3 4 5 6; do
        echo "{\"EchoTime\": 0.0$(printf '%02d' $((echo * 5)))}" > "$dir/bad/echo-${echo}_MEGRE.json"
        rm "$dir/bad/sub-01/ses-1/anat/sub-01_ses-1_run-2_echo-${echo}_part-${part}_MEGRE.json"
    done
done
echo '{"MagneticFieldStrength": "3", "EchoTime": 0.5, "Manufacturer": "SIEMENS"}' > "$dir/bad/MEGRE.json"
ok "a session" "$bin/maps" --data "$dir/bad" --out "$dir/session" $few --session 1 --run 02
ok "with sidecars of all" cmp "$dir/session/sub-01/ses-1/anat/sub-01_ses-1_Chimap.nii.gz" "$dir/three/sub-01/anat/sub-01_Chimap.nii.gz"
ok "and a page" test -s "$dir/session/sub-01_ses-1.html"
for k in 1 2 3 4; do
    s=sub-0$k; mkdir -p "$dir/visits/derivatives/masks/$s/ses-1/anat" "$dir/visits/derivatives/qnet/$s/ses-1/anat"
    for file in "$maps/$s/anat"/*.nii.gz; do cp "$file" "$dir/visits/derivatives/qnet/$s/ses-1/anat/${s}_ses-1_${file##*/${s}_}"; done
    cp "$dir/cohort/derivatives/phantom/$s/anat/${s}_desc-basalganglia_mask.nii.gz" "$dir/visits/derivatives/masks/$s/ses-1/anat/${s}_ses-1_desc-basalganglia_mask.nii.gz"
done
cp "$dir/cohort/participants.tsv" "$dir/visits"
ok "crossval reads a session" "$bin/crossval" --data "$dir/visits" --out "$dir/visit" --session 1 --input crop --size 32 --folds 2 \
    --epochs1 1 --epochs2 1 --batch 16 --bootstrap 50
cp -r "$dir/visits/derivatives/masks" "$dir/visits/derivatives/more"
"$bin/crossval" --data "$dir/visits" --out "$dir/visit2" --session 1 > "$dir/stdout" 2> "$dir/refusal"
ok "two masks" grep -q 'sub-01: 2 files fit mask: .*/masks/.*/more/.*; choose with --derivatives qnet,masks' "$dir/refusal"
refused 'no folder sub-*/ses-9' --data "$dir/bad" --session ses-9
refused 'sub-01_ses-1_echo-*_part-mag_MEGRE' --data "$dir/bad" --run 1
for file in "$dir/bad/sub-01/ses-1/anat"/*; do cp "$file" "${file%run-2*}run-1${file##*run-2}"; done
refused '2 sets of echoes fit: sub-01_ses-1_run-1_MEGRE, sub-01_ses-1_run-2_MEGRE; choose one with --run' --data "$dir/bad"

# The sign: GE's by its name; the wrong one is warned of.
copy; for file in "$dir/bad/sub-01/anat"/*.json; do sed 's/"Phantom"/"GE MEDICAL SYSTEMS"/' "$file" > "$dir/json"; cp "$dir/json" "$file"; done
ok "the wrong sign" "$bin/maps" --data "$dir/bad" --out "$dir/ge" $few
said '^maps: warning: .*phase_sign to 1 (--phase-sign)'
ok "on the page, too" grep -q '<b>reversed?</b>' "$dir/ge/sub-01.html"
ok "a sign that is given" "$bin/maps" --data "$dir/bad" --out "$dir/ge" $few --phase-sign 1
same "the other sign" "$dir/three" "$dir/ge"
for file in "$dir/bad/sub-01/anat"/*.json; do sed '/Manufacturer/d' "$file" > "$dir/json"; cp "$dir/json" "$file"; done
ok "no manufacturer" "$bin/maps" --data "$dir/bad" --out "$dir/ge" $few
said '^maps: warning: .*sidecars name no Manufacturer'
for file in "$dir/bad/sub-01/anat"/*.json; do sed 's/{/{"Manufacturer": "Hitachi",/' "$file" > "$dir/json"; cp "$dir/json" "$file"; done
ok "another manufacturer" "$bin/maps" --data "$dir/bad" --out "$dir/ge" $few
said '^maps: warning: .*a Manufacturer that is not known here, Hitachi: .*say --phase-sign -1'
for file in "$dir/bad/sub-01/anat"/*.json; do sed 's/Hitachi/GEHC/' "$file" > "$dir/json"; cp "$dir/json" "$file"; done
ok "GE by its new name" "$bin/maps" --data "$dir/bad" --out "$dir/ge" $few
said '^maps: warning: .*phase_sign to 1'

echo > "$dir/README.txt"
# Bad input: one sentence with the file's name, and nothing half written.
echo=sub-01/anat/sub-01_echo-2_part
refused 'nowhere: the folder cannot be opened' --data "$dir/nowhere"
refused 'README.txt: is a file, expected the folder of a BIDS data set (--data)' --data "$dir/README.txt"
mkdir "$dir/empty"; echo > "$dir/empty/sub-01.html"; refused 'no folder sub-*: expected a BIDS data set' --data "$dir/empty"
refused 'no folder sub-99' --data "$dir/cohort" --subject 99
copy; for file in "$dir/bad/sub-01/anat"/*; do mv "$file" "${file%MEGRE*}GRE${file##*MEGRE}"; done
refused '(or VFA) .nii.gz or .nii; there is sub-01_echo-1_part-mag_GRE.nii.gz, sub-01_echo-2_part-mag_GRE.nii.gz, sub-01_echo-3_part-mag_GRE.nii.gz, ...' --data "$dir/bad"
copy; rm -r "$dir/bad/sub-01/anat"; refused 'no sub-01_echo-*_part-mag_MEGRE' --data "$dir/bad"
copy; rm "$dir/bad/$echo-mag_MEGRE.json"; refused 'sub-01_echo-2_part-mag_MEGRE.nii.gz: has no sidecar, expected sub-01_echo-2_part-mag_MEGRE.json' --data "$dir/bad"
copy; sed '/EchoTime/d; s/24,/24/' "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; refused 'echo-2_part-mag_MEGRE.nii.gz: its sidecars have no "EchoTime"' --data "$dir/bad"
copy; sed 's/0\.01/10/' "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; refused 'echo-2_part-mag_MEGRE.json: "EchoTime" is 10, expected seconds, at most 1: these are milliseconds' --data "$dir/bad"
copy; sed 's/0\.01/"soon"/' "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; refused '"EchoTime" is no number' --data "$dir/bad"
copy; sed 's/0\.01/0.011/' "$dir/cohort/$echo-phase_MEGRE.json" > "$dir/bad/$echo-phase_MEGRE.json"; refused 'echo-2_part-phase_MEGRE.nii.gz: "EchoTime" is 0.011, expected 0.01, as of' --data "$dir/bad"
copy; sed 's/0\.01/0.004/' "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; cp "$dir/bad/$echo-mag_MEGRE.json" "$dir/bad/$echo-phase_MEGRE.json"; refused 'sub-01_echo-2_part-*_MEGRE' --data "$dir/bad"
copy; head -c 40 "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; refused 'echo-2_part-mag_MEGRE.json: is no JSON object, see line 3' --data "$dir/bad"
copy; for file in "$dir/bad/sub-01/anat"/*.json; do sed '/MagneticFieldStrength/d' "$file" > "$dir/json"; cp "$dir/json" "$file"; done; refused 'echo-1_part-mag_MEGRE.nii.gz: its sidecars have no "MagneticFieldStrength", expected it in tesla' --data "$dir/bad"
copy; sed 's/"MagneticFieldStrength": 3/"MagneticFieldStrength": 7/' "$dir/cohort/$echo-mag_MEGRE.json" > "$dir/bad/$echo-mag_MEGRE.json"; refused '"MagneticFieldStrength" is 7, expected 3, as of sub-01_echo-1' --data "$dir/bad"
copy; rm "$dir/bad/sub-01/anat"/*echo-[2-6]*; refused 'echo-1_part-mag_MEGRE.nii.gz: is the only echo, expected two or more' --data "$dir/bad"
copy; rm "$dir/bad/sub-01/anat"/*echo-3*; refused 'sub-01_MEGRE has 6 echoes, but no echo-3' --data "$dir/bad"
copy; rm "$dir/bad/$echo-phase_MEGRE.nii.gz"; refused 'echo-2_part-mag_MEGRE.nii.gz: is there without its phase, expected one with part-phase' --data "$dir/bad"
copy; cp "$dir/bad/$echo-mag_MEGRE.nii.gz" "$dir/bad/$echo-mag_MEGRE.nii"; refused 'is the same echo, expected one' --data "$dir/bad"
copy; cp "$dir/flips/sub-01/anat/sub-01_echo-2_flip-1_part-phase_VFA.nii.gz" "$dir/bad/$echo-phase_MEGRE.nii.gz"; refused 'sub-01_echo-2_part-*_MEGRE' --data "$dir/bad"
copy; head -c 3000 "$dir/cohort/$echo-phase_MEGRE.nii.gz" > "$dir/bad/$echo-phase_MEGRE.nii.gz"; refused 'echo-2_part-phase_MEGRE.nii.gz' --data "$dir/bad"
copy; cp "$dir/bad/$echo-mag_MEGRE.nii.gz" "$dir/bad/$echo-phase_MEGRE.nii.gz"; refused 'part-*_MEGRE: the phases are' --data "$dir/bad"
refused 'none.nii.gz: is not there, expected the brain mask of sub-01 (--mask)' --data "$dir/bad" --mask "$dir/none.nii.gz"
refused 'one mask for sub-01 and sub-02, expected {subject}' --data "$dir/cohort" --mask "$dir/cohort/$echo-mag_MEGRE.nii.gz"
copy; refused 'sub-01_desc-brain_mask.nii.gz: grid of 40x48x32, expected 48x58x40 as in' --data "$dir/bad" --mask "$dir/flips/derivatives/phantom/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
gzip -dc "$maps/sub-02/anat/sub-02_desc-brain_mask.nii.gz" > "$dir/full.nii"
{ head -c 352 "$dir/full.nii"; tail -c +353 "$dir/full.nii" | tr '\001' '\000'; } > "$dir/empty.nii"
refused "sub-01: $dir/empty.nii: the mask is empty" --data "$dir/bad" --mask "$dir/empty.nii"
wanted=2
for option in '--nonsense 1' '--mode fast' '--phase-sign 2' '--threads=0' '--brain-threshold x' '--background none' '--out'; do
    refused "${option%%[ =]*}" --data "$dir/cohort" $option
done
refused '--brain-threshold 0: expected a number from 0.01 to 0.99' --data "$dir/cohort" --brain-threshold 0
refused '--mod: no such option; did you mean --mode?' --data "$dir/cohort" --mod paper
"$bin/maps" > "$dir/stdout" 2> "$dir/refusal"
ok "no stray blank" grep -q '^maps: --data: expected' "$dir/refusal"
wanted=1
mkdir "$dir/theirs"; echo '{"Name": "other"}' > "$dir/theirs/dataset_description.json"
"$bin/maps" --data "$dir/cohort" --out "$dir/theirs" $few > "$dir/stdout" 2> "$dir/refusal"
ok "another program's folder" grep -q 'theirs/dataset_description.json: is of another program' "$dir/refusal"
echo precious > "$dir/file"
"$bin/maps" --data "$dir/cohort" --out "$dir/file/out" $few > "$dir/stdout" 2> "$dir/refusal"
ok "unwritable output" grep -q 'file/out.*(--out)' "$dir/refusal"
ok "and the file stays" grep -q precious "$dir/file"

# What is not by maps stays: the data folder itself, files of others in a folder without or with our description.
keeps() # sentence, folder, options: refused, and the folder is as it was
{
    rm -rf "$dir/before"; cp -r "$2" "$dir/before"
    part=$1 folder=$2
    shift 2
    "$bin/maps" --out "$folder" $few "$@" > "$dir/stdout" 2> "$dir/refusal"
    ok "$folder: refused" test $? = 1
    ok "$folder: says $part" sh -c "cat '$dir/refusal'; grep -q -F -e '$part' '$dir/refusal'"
    ok "$folder: stays as it is" diff -r "$dir/before" "$folder"
}
copy; cp "$dir/bad/$echo-mag_MEGRE.nii.gz" "$dir/bad/sub-01/anat/sub-01_T1w.nii.gz"
keeps 'is a folder of data, expected one of its own for the maps (--out)' "$dir/bad" --data "$dir/bad"
mkdir -p "$dir/truth/sub-01/anat"
for file in Chimap T1map; do cp "$dir/bad/$echo-mag_MEGRE.nii.gz" "$dir/truth/sub-01/anat/sub-01_$file.nii.gz"; done
keeps 'truth/sub-01/anat/sub-01_Chimap.nii.gz: is there and not of this program' "$dir/truth" --data "$dir/bad"
rm "$dir/truth/sub-01/anat/sub-01_Chimap.nii.gz"
keeps 'truth/sub-01: is there, but no dataset_description.json' "$dir/truth" --data "$dir/bad"
mv "$dir/truth/sub-01/anat/sub-01_T1map.nii.gz" "$dir/truth/sub-01/anat/sub-01_R2starmap.nii.gz"
cp "$dir/three/dataset_description.json" "$dir/truth"
keeps 'truth/sub-01/anat/sub-01_R2starmap.nii.gz: is there and not of this program' "$dir/truth" --data "$dir/bad"
cp -r "$dir/three" "$dir/full"
echo '{"Units": "s"}' > "$dir/full/sub-01/anat/sub-01_T1map.json"; echo theirs > "$dir/full/sub-01/anat/sub-01_T1map.nii.gz"
ok "beside a T1map of another program" "$bin/maps" --data "$dir/cohort" --out "$dir/full" $few --subject 01
ok "which stays" grep -q theirs "$dir/full/sub-01/anat/sub-01_T1map.nii.gz"
rm "$dir/full/sub-01/anat/sub-01_R2starmap.nii.gz"; mkdir -p "$dir/full/sub-01/anat/sub-01_R2starmap.nii.gz/x"
keeps 'sub-01_R2starmap.nii.gz: is a folder' "$dir/full" --data "$dir/cohort" --subject 01

# A run that fails while it writes, as on a full disk, leaves the maps that were there; one that does not removes what it has not.
cp -r "$dir/three" "$dir/disk"; cp -r "$dir/three" "$dir/before-disk"
sh -c "trap '' XFSZ; ulimit -f 100; exec '$bin/maps' --data '$dir/cohort' --out '$dir/disk' $few --subject 01 --mode consensus" > "$dir/stdout" 2> "$dir/refusal"
ok "a full disk" test $? = 1
ok "names the file" grep -q 'maps: sub-01: .*sub-01.*: ' "$dir/refusal"
ok "the maps that were there stay, and nothing else" diff -r "$dir/before-disk/sub-01" "$dir/disk/sub-01"
ok "with their page" diff "$dir/before-disk/sub-01.html" "$dir/disk/sub-01.html"
for file in sub-01_T1map.nii.gz sub-01_T1map.json; do cp "$dir/flips/derivatives/qnet/sub-01/anat/$file" "$dir/disk/sub-01/anat"; done
ok "written with room" "$bin/maps" --data "$dir/cohort" --out "$dir/disk" $few --subject 01
ok "T1 of a former run goes" sh -c "! find '$dir/disk' -name '*T1map*' -o -name '*.new' | grep ."
same "written anew" "$dir/three" "$dir/disk"

# Masks of two sessions of one subject are two; so are settings in one folder, which is said.
mkdir -p "$dir/two/sub-01/ses-1/anat" "$dir/two/sub-01/ses-2/anat"; s=sub-01; echo > "$dir/two/sub-01/ses-3.txt"; echo > "$dir/two/sub-02.txt"
for k in 1 2; do
    for file in "$dir/cohort/$s/anat"/*_echo-*; do cp "$file" "$dir/two/$s/ses-$k/anat/${s}_ses-${k}_${file##*/${s}_}"; done
    cp "$maps/$s/anat/${s}_desc-brain_mask.nii.gz" "$dir/two/m_ses-$k.nii.gz"
done
cp "$dir/two/m_ses-1.nii.gz" "$dir/two/m_sub-01.nii.gz"
refused 'm_sub-01.nii.gz: one mask for sub-01_ses-1 and sub-01_ses-2, expected {session} in its name' --data "$dir/two" --mask "$dir/two/m_{subject}.nii.gz"
ok "a mask for each session" "$bin/maps" --data "$dir/two" --out "$dir/two-maps" $few --mask "$dir/two/m_{session}.nii.gz"
ok "quietly: files are no subjects" test ! -s "$dir/log"
ok "other settings for one" "$bin/maps" --data "$dir/two" --out "$dir/two-maps" $few --session 2 --sharp-radius 5 --mask "$dir/two/m_{session}.nii.gz"
said 'two-maps: 1 session of other settings, not made again in this run: sub-01_ses-1 has sharp_radius 6, here 5'
ok "the same for the other" "$bin/maps" --data "$dir/two" --out "$dir/two-maps" $few --session 1 --sharp-radius 5 --mask "$dir/two/m_{session}.nii.gz"
ok "is quiet" test ! -s "$dir/log"

# One session of several fails: the others are made, and of the failed one there are no new files.
cp -r "$dir/cohort" "$dir/mixed"; rm -r "$dir/mixed/derivatives/qnet" "$dir/mixed/derivatives/phantom/dseg.tsv"
head -c 3000 "$dir/cohort/$echo-phase_MEGRE.nii.gz" > "$dir/mixed/$echo-phase_MEGRE.nii.gz"
"$bin/maps" --data "$dir/mixed" --out "$dir/mixed/derivatives/qnet" --brain-erode 2 > "$dir/stdout" 2> "$dir/refusal"
ok "one of four fails" test $? = 1
ok "it is named" grep -q '^maps: sub-01: .*echo-2_part-phase' "$dir/refusal"
ok "three are made" grep -q 'maps of 3 of 4 sessions' "$dir/stdout"
ok "regions have names" sh -c "! grep -q 'would name' '$dir/three/sub-01.html'"
ok "the page says what ml are" grep -q 'ml, whole' "$dir/mixed/derivatives/qnet/sub-02.html"
ok "and what would name them" grep -q 'A dseg.tsv (index, name) .* would name' "$dir/mixed/derivatives/qnet/sub-02.html"
rm -r "$dir/mixed/sub-01/anat"; mkdir "$dir/mixed/sub-05"
ok "without echoes" "$bin/maps" --data "$dir/mixed" --out "$dir/mixed/derivatives/qnet" --brain-erode 2 --resume
said '^maps: warning: .*mixed/sub-05/anat: no sub-05_echo-.*: left out'
ok "others stay" grep -q 'those of 3 were there' "$dir/said"
if command -v flock > /dev/null; then # another run holds the folder
    flock "$maps/run.lock" "$bin/maps" --data "$dir/cohort" --out "$maps" --brain-erode 2 --resume > "$dir/stdout" 2> "$dir/refusal"
    ok "two runs in one folder" test $? = 1
    ok "the second is told" grep -q 'another run works in this folder' "$dir/refusal"
    rm -f "$maps/run.lock"
fi
ok help sh -c "'$bin/maps' --help | grep -q phase-sign"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
