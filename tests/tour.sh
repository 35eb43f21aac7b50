#!/bin/sh
# tour.sh BUILD: each stop of examples/README.md prints as its last line what stands there, and what it names to
# read is in qnet.h.
bin=$(cd "$1" && pwd)
dir=$bin/tour
. tests/shell.sh

last_line_is() { [ "$(cd "$dir" && "$bin/$1" 2>&1 | tail -n 1)" = "$2" ]; }

sed -n 's/^| [1-9] | `build\/\([a-z_]*\)` | `\(.*\)` | \(.*\) |$/\1:\2:\3/p' examples/README.md > "$dir/stops"
ok "eight stops" [ "$(wc -l < "$dir/stops")" -eq 8 ]
# the last line may hold colons: the program is what stands before the first, the names behind the last
while IFS= read -r stop; do
    program=${stop%%:*} names=${stop##*:} expected=${stop#*:}
    ok "$program" last_line_is "$program" "${expected%:*}"
    for name in $(printf '%s' "$names" | tr '`,' '  '); do
        case $name in
        '>>'* | qnet_*) ok "$name" grep -q -e "$name" qnet.h ;;
        esac
    done
done < "$dir/stops"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
