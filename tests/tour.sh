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

# Each program says what it takes: to --help, and to what it cannot take.
helps() { "$bin/$1" --help 2> "$dir/stderr" | grep -q "^usage: $1" && [ ! -s "$dir/stderr" ]; }
refuses() { "$bin/$1" a b c d e f g h > "$dir/stdout" 2> "$dir/stderr"; [ $? = 2 ] && [ ! -s "$dir/stdout" ] && grep -q "$1" "$dir/stderr"; }
for program in examples/*.c examples/cpp_program.cpp crossval maps predict; do
    program=${program##*/} program=${program%.c*}
    case $program in openblas | fftw) continue ;; esac
    [ "$program" = cpp_program ] && [ ! -x "$bin/cpp_program" ] && continue
    ok "$program --help" helps "$program"
    ok "$program: wrong usage" refuses "$program"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
