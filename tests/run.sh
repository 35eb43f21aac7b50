#!/bin/sh
# run.sh BUILD: runs every test program of BUILD/tests and the build checks, and adds up their counts.
build=$1
passed=0 failed=0 skipped=0

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

# The build checks compile on one core for minutes, beside the tests.
sh tests/builds.sh "$build" > "$build/builds.txt" 2>&1 &
builds=$!
for program in "$build"/tests/test_* "$build"/tests/double_* "$build"/tests/reference_* "$build"/tests/faults_* \
    "$build"/tests/fuzz_*; do
    [ -x "$program" ] || continue
    case $program in
    */fuzz_*) output=$("$program" tests/fuzz/corpus/"${program##*/fuzz_}"/* 2>&1) ;;
    *) output=$("$program" 2>&1) ;;
    esac
    status=$?
    printf '%s\n' "$output" | sed '$d'
    add "$(basename "$program")" "$(printf '%s\n' "$output" | tail -n 1)" $status
done
for script in crossval maps weights_tool classify delong install tour; do
    output=$(sh tests/$script.sh "$build" 2>&1)
    status=$?
    printf '%s\n' "$output" | sed '$d'
    add "$script" "$(printf '%s\n' "$output" | tail -n 1)" $status
done
wait $builds
status=$?
sed '$d' "$build/builds.txt"
add builds "$(tail -n 1 "$build/builds.txt")" $status
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
