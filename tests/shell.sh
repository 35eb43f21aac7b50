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
