# shell.sh: what the scripts of tests share; each sources it with $dir as a folder of its own.
rm -rf "$dir"
mkdir -p "$dir"
passed=0 failed=0

ok() # what, command...
{
    what=$1
    shift
    if "$@" > "$dir/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$what: failed: $*"
        tail -n 5 "$dir/log"
    fi
}
