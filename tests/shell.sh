# shell.sh: what the scripts of tests share; each sources it with $dir as a folder of its own.
rm -rf "$dir"
mkdir -p "$dir"
passed=0 failed=0

ok() # what, command...; it may look at $dir/log, what the last one printed
{
    what=$1
    shift
    "$@" > "$dir/log.now" 2>&1
    ran=$?
    mv "$dir/log.now" "$dir/log"
    if [ $ran = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$what: failed: $*"
        tail -n 5 "$dir/log"
    fi
}

bytes_at() # file, offset, bytes as \ooo: writes them into an unpacked copy that takes its place
{
    gzip -dc "$1" > "$dir/patch.nii"
    printf "$3" | dd of="$dir/patch.nii" bs=1 seek="$2" conv=notrunc 2> /dev/null
    gzip -1c "$dir/patch.nii" > "$1"
}
probable() { bytes_at "$1" 112 '\315\314\114\077\315\314\314\075'; } # a mask: 1 becomes .9, 0 becomes .1
coronal() # a map of make_phantom --scale small: the same voxels in the same places, stored from slice to slice forwards
{
    rm -rf "$dir/rows"
    mkdir "$dir/rows"
    gzip -dc "$1" > "$dir/rows.nii"
    tail -c +353 "$dir/rows.nii" | (cd "$dir/rows" && split -a 4 -b 192 -) # rows of 96 voxels
    (cd "$dir/rows" && head -c 352 ../rows.nii && ls | awk '{ row[NR - 1] = $0 }
        END { for (y = 0; y < 112; y++) for (z = 0; z < 14; z++) print row[z * 112 + y] }' | xargs cat) | gzip -1c > "$1"
    bytes_at "$1" 44 '\016\000\160\000'                          # 14 x 112
    bytes_at "$1" 84 '\000\000\000\100\366\050\334\077'          # 2 and 1.72 mm
    bytes_at "$1" 300 '\000\000\000\000\366\050\334\077'         # to the front
    bytes_at "$1" 316 '\000\000\000\100\000\000\000\000'         # upwards
}
