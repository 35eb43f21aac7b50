#!/bin/sh
# foreign.sh SYSTEM BUILD: compiles tests for another system, or with a BLAS, by the Makefile's rules, without a
# warning; runs them there and adds up their counts.
system=$1 build=$2/$1
flags= libs= run= openmp= fsync=
# Tests in the order of the rooms. Large networks, which take hours under qemu, stand apart.
networks='gemm fuse conv stem layers lstm resnet scan optim cam train'
rooms="foundation files deflate nifti weights image cohort metrics delong pth audit gradcheck $networks parity oracles paper \
    phantom report experiment trace"
case $system in
arm)
    cc=aarch64-linux-gnu-gcc libs=-static run=qemu-aarch64 needs='gcc-aarch64-linux-gnu, qemu-user'
    tests="foundation $networks" ;;
i386)
    cc=i686-linux-gnu-gcc flags='-msse2 -mfpmath=sse' libs=-static needs=gcc-i686-linux-gnu
    tests="$rooms identity" ;;
big-endian)
    cc=s390x-linux-gnu-gcc flags=-fexcess-precision=fast libs=-static run=qemu-s390x needs='gcc-s390x-linux-gnu, qemu-user'
    tests='foundation files deflate nifti weights image cohort metrics delong pth audit gemm layers lstm scan optim oracles
        report' ;;
windows)
    cc=x86_64-w64-mingw32-gcc run=wine needs='gcc-mingw-w64-x86-64, wine'
    libs='-static -Wl,-o,$@' # gcc would call it .exe, which make does not look for
    tests=$rooms fsync=UNSAFE= # as on disks, since nothing else forces files to one there
    WINEPREFIX=$(pwd)/$build/wine WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' # own folder, no downloads
    export WINEPREFIX WINEDEBUG WINEDLLOVERRIDES ;;
wasm | wasm-simd)
    cc=emcc run='node --no-experimental-fetch' needs='emscripten, nodejs'
    libs='-sALLOW_MEMORY_GROWTH=1 -sMAXIMUM_MEMORY=4GB -sNODERAWFS=1 -sEXIT_RUNTIME=1'
    NODE_PATH=/usr/share/nodejs # where Debian's emscripten finds its modules, if node is not Debian's
    export NODE_PATH
    [ $system = wasm-simd ] && flags=-msimd128
    tests=$(echo "$rooms" | sed 's/ files / /') ;; # emscripten's locks hold nothing
openblas)
    cc=${CC:-cc} flags=-DQNET_USE_CBLAS libs='-pthread -lopenblas' needs=libopenblas-dev openmp=$3
    tests="$networks parity identity" ;;
*)
    echo "foreign.sh: there is no system '$system'"
    exit 1 ;;
esac

missing() { echo "make test-$system: needs Debian's $needs"; exit 1; }
for program in $cc ${run%% *}; do
    command -v "$program" > /dev/null 2>&1 || missing
done
mkdir -p "$build/tests"
echo 'int main(void) { return 0; }' > "$build/empty.c"
$cc $flags "$build/empty.c" -o "$build/empty.out" ${libs%%-Wl*} > /dev/null 2>&1 || missing

programs=
for test in ${ONLY:-$tests}; do programs="$programs $build/tests/test_$test"; done
# What does not compile counts as a failure below.
make --no-print-directory -k -j"$(nproc 2> /dev/null || echo 2)" BUILD="$build" CC="$cc" \
    CFLAGS="${CFLAGS:--O2} -Werror $flags" OPENMP="$openmp" LIBS="$libs" $fsync $programs
passed=0 failed=0
for program in $programs; do
    $run "$program" > "$program.txt" 2> "$program.err"
    status=$?
    counts=$(tr -d '\r' < "$program.txt" | sed -n '$s/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p')
    set -- ${counts:-0 1}
    [ $status != 0 ] && { [ "$2" = 0 ] && set -- "$1" 1; head -n 20 "$program.txt" "$program.err"; }
    passed=$((passed + $1)) failed=$((failed + $2))
    echo "$program: ${counts:+$1 passed, $2 failed, }exit status $status"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
