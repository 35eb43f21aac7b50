#!/bin/sh
# run.sh BUILD LANES: runs every test program of BUILD/tests, the scripts and the build checks, LANES at a time, shows
# what they say in a fixed order, and adds up their counts.
# run.sh BUILD one NAME,NAME...: runs these, one after the other, into BUILD/results.
build=$1
results=$1/results
# glibc: a network's memory comes from the heap and stays there. Giving it back to the system each time, and having its
# pages zeroed anew, took 18 % of test_experiment's processor time.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

if [ "$2" = one ]; then
    for name in $(echo "$3" | tr , ' '); do
        case $name in
        builds_*) sh tests/builds.sh "$build" "${name#builds_}" ;;
        fuzz_*) "$build/tests/$name" tests/fuzz/corpus/"${name#fuzz_}"/* ;;
        *) if [ -f "tests/$name.sh" ]; then sh "tests/$name.sh" "$build"; else "$build/tests/$name"; fi ;;
        esac > "$results/$name.txt" 2>&1
        echo $? > "$results/$name.running"
        mv "$results/$name.running" "$results/$name.status" # there when the count is
    done
    exit 0
fi

passed=0 failed=0
add() # name, last line of its output, exit status
{
    counts=$(printf '%s\n' "$2" | sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed.*/\1 \2/p')
    if [ -z "$counts" ]; then
        echo "$1: ended without a count (exit status $3)"
        failed=$((failed + 1))
        return
    fi
    set -- "$1" $counts "$3"
    passed=$((passed + $2)) failed=$((failed + $3))
    [ "$3" = 0 ] && [ "$4" != 0 ] && { echo "$1: exit status $4"; failed=$((failed + 1)); }
    printf '%-28s %s passed, %s failed\n' "$1" "$2" "$3"
}

rm -rf "$results"
mkdir -p "$results"
# What takes longest begins first. delong and install look at the run that crossval leaves.
first="predict faults_files test_experiment crossval,delong,install builds_gcc maps parts layouts builds_rest check \
    weights_tool builds_clang faults_alloc double_parity double_resnet test_identity test_train double_train"
names=
for program in "$build"/tests/test_* "$build"/tests/double_* "$build"/tests/reference_* "$build"/tests/faults_* \
    "$build"/tests/fuzz_*; do
    [ -x "$program" ] && names="$names ${program##*/}"
done
names="$names crossval parts layouts check maps weights_tool predict delong install tour builds_gcc builds_clang builds_rest"
rest=
for name in $names; do
    case " $first " in *[\ ,]$name[\ ,]*) ;; *) rest="$rest $name" ;; esac
done
show()
{
    for name in $names; do
        until [ -f "$results/$name.status" ] || [ -f "$results/end" ]; do
            sleep 1
            kill -0 $$ 2> /dev/null || exit 1
        done
        sed '$d' "$results/$name.txt"
        add "$name" "$(tail -n 1 "$results/$name.txt")" "$(cat "$results/$name.status")"
    done
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
show &
printf '%s\n' $first $rest | xargs -P "$2" -n 1 sh tests/run.sh "$build" one
: > "$results/end"
wait $!
