#!/bin/sh
# install.sh BUILD: make shared and make install: what the library shows, its versions, programs that find it by
# pkg-config and CMake, from Python and R, each where it is present.
dir=$1/install-test
. tests/shell.sh
mkdir "$dir/root"
dir=$(cd "$dir" && pwd)
run=$(cd "$1" && pwd)/crossval-test
unset MAKEFLAGS DESTDIR PREFIX
warn='-std=c99 -Wall -Wextra -Wpedantic -Werror'

says() # what it must print, command...
{
    want=$1
    shift
    "$@" > "$dir/log" 2>&1
    if grep -q -F -e "$want" "$dir/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$*: expected \"$want\", got:"
        tail -n 5 "$dir/log"
    fi
}

have() # program, for what
{
    command -v "$1" > /dev/null 2>&1 || { echo "install.sh: no $1: $2 is not tested"; return 1; }
}

# The plain kernels only: half a minute less to compile, and the same functions.
make="make --no-print-directory BUILD=$dir/build"
plain='-O0 -DQNET_REFERENCE -DQNET_NO_SIMD'
ok "make shared" $make shared CFLAGS="$plain"
ok "make install" $make install CFLAGS="$plain" DESTDIR="$dir/root" PREFIX=/opt/qnet
to=$dir/root/opt/qnet
version=$(sed -n 's/^.define QNET_VERSION "\(.*\)"/\1/p' qnet.h)
ok "the header" cmp qnet.h "$to/include/qnet.h"
library=
for name in libqnet.so libqnet.dylib; do [ -e "$to/lib/$name" ] && library=$to/lib/$name; done
ok "the library" test -n "$library"

# Every function that the header declares, and no other name.
sed -n '/^#endif \/\* QNET_H/q; s/^QNET_API [^(]*[ *]\(qnet_[a-z0-9_]*\)(.*/\1/p' qnet.h | sort > "$dir/declared"
ok "declarations are found" test "$(wc -l < "$dir/declared")" -gt 150
if [ "$(uname -s)" = Linux ] && have nm "what the library exports"; then
    nm -D --defined-only "$library" | sed 's/.* //; s/@.*//' | sort > "$dir/exported"
    ok "exported: all that is declared, and only that" diff "$dir/declared" "$dir/exported"
    ok "the library's own name" sh -c "nm -D '$library' > /dev/null && test -e '$to/lib/libqnet.so.${version%.*}' -a \
        -e '$to/lib/libqnet.so.$version'"
fi

# A program that compares the header it was compiled with and the library it runs with.
cat > "$dir/user.c" <<'C'
#include <qnet.h>
#include <stdio.h>
#include <string.h>
#if QNET_VERSION_NUMBER != QNET_VERSION_MAJOR * 10000 + QNET_VERSION_MINOR * 100 + QNET_VERSION_PATCH
#error "QNET_VERSION_NUMBER"
#endif
int main(void)
{
    qnet_context *ctx;
    int same = strcmp(qnet_version(), QNET_VERSION) == 0;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    qnet_context_destroy(ctx);
    printf("library %s, the header's: %d\n", qnet_version(), same);
    return 0;
}
C
cc=${CC:-cc}
LD_LIBRARY_PATH=$to/lib DYLD_LIBRARY_PATH=$to/lib
export LD_LIBRARY_PATH DYLD_LIBRARY_PATH
ok "a program" $cc $warn -I"$to/include" "$dir/user.c" -o "$dir/user" -L"$to/lib" -lqnet
says "library $version, the header's: 1" "$dir/user"
says qnet_context_create_double $cc $warn -DQNET_REAL=double -I"$to/include" "$dir/user.c" -o "$dir/other" -L"$to/lib" -lqnet
if have pkg-config "qnet.pc"; then
    PKG_CONFIG_PATH=$to/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dir/root
    export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
    says "$version" pkg-config --modversion qnet
    ok "by pkg-config" $cc $warn "$dir/user.c" -o "$dir/user-pc" $(pkg-config --cflags --libs qnet)
    says "library $version, the header's: 1" "$dir/user-pc"
fi
if have cmake "the CMake package"; then
    mkdir "$dir/cmake"
    cp "$dir/user.c" "$dir/cmake/user.c"
    { echo '#define QNET_STATIC'; echo '#define QNET_IMPLEMENTATION'; cat "$dir/user.c"; } > "$dir/cmake/alone.c"
    cat > "$dir/cmake/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.5)
project(user C)
find_package(qnet ${WANTED} REQUIRED)
add_executable(user user.c)
target_link_libraries(user qnet::qnet)
add_executable(alone alone.c)
target_link_libraries(alone qnet::header)
CMAKE
    cmake="cmake -S $dir/cmake -Dqnet_DIR=$to/lib/cmake/qnet"
    ok "find_package" $cmake -B "$dir/cmake/build" -DWANTED="${version%.*}" -DCMAKE_C_FLAGS="$plain"
    ok "built by CMake" cmake --build "$dir/cmake/build"
    says "library $version, the header's: 1" env LD_LIBRARY_PATH= "$dir/cmake/build/user"
    says "library $version, the header's: 1" "$dir/cmake/build/alone"
    ok "exactly this version" $cmake -B "$dir/cmake/exact" -DWANTED="$version;EXACT"
    for other in 0.0 0.99 "${version%.*}.99" 1 99.0; do
        says 'Could not find a configuration file for package "qnet"' $cmake -B "$dir/cmake/not" -DWANTED=$other
    done
fi

# What stands before the functions can be chosen outside, as for a DLL.
printf '#include "qnet.h"\nconst char *user(void);\nconst char *user(void) { return qnet_version(); }\n' > "$dir/dll.c"
ok "QNET_API of one's own" $cc $warn -DQNET_API='extern int (qnet_mark);extern' -I. -c "$dir/dll.c" -o "$dir/dll.o"
if have x86_64-w64-mingw32-gcc "a DLL's __declspec"; then
    ok dllimport x86_64-w64-mingw32-gcc $warn -DQNET_API='__declspec(dllimport)' -I. -c "$dir/dll.c" -o "$dir/dll.obj"
    says __imp_qnet_version x86_64-w64-mingw32-nm "$dir/dll.obj"
    ok dllexport x86_64-w64-mingw32-gcc -std=c99 -DQNET_API='__declspec(dllexport)' -DQNET_IMPLEMENTATION $plain -I. -S \
        -x c qnet.h -o "$dir/dll.s"
    says '-export:\"qnet_version\"' cat "$dir/dll.s"
fi

QNET_LIBRARY=$library
export QNET_LIBRARY
if have python3 "examples/shared_library.py"; then
    says 'AUC 0.9550 and 0.7300, z = 1.938, p = 0.0526' python3 examples/shared_library.py
    says 'no library (make shared makes it)' env QNET_LIBRARY="$dir/none.so" python3 examples/shared_library.py
    # The scan of a fold that crossval.sh has left, and the numbers that stand in its predictions.csv.
    scan=$run/cohort/derivatives/*/sub-01/anat/sub-01
    fold=$(sed -n 's/^image,crop,1,\([0-9]*\),sub-01,.*/\1/p' "$run/one/predictions.csv" 2> /dev/null | head -n 1)
    if ! python3 -c 'import nibabel, numpy' 2> /dev/null; then
        says 'needs nibabel and numpy' python3 examples/shared_library.py a b c d e
        echo "install.sh: no nibabel: features and probabilities from Python are not tested"
    elif [ -n "$fold" ]; then
        ok "a scan from Python" python3 examples/shared_library.py $(echo ${scan}_Chimap.nii.gz ${scan}_R2starmap.nii.gz) \
            "$run/cohort/sub-01/anat/sub-01_T1w.nii.gz" $(echo ${scan}_desc-basalganglia_mask.nii.gz) \
            "$run/one/weights/crop-repeat01-fold0$fold-resnetswa.safetensors"
        sed -n 's/.*probability of HH //p' "$dir/log" > "$dir/python"
        sed -n 's/^image,crop,1,[0-9]*,sub-01,[^,]*,[^,]*,[^,]*,[^,]*,[^,]*,\([^,]*\),.*/\1/p' "$run/one/predictions.csv" |
            LC_ALL=C xargs printf '%.4f\n' > "$dir/crossval"
        ok "crossval's probabilities" cmp "$dir/python" "$dir/crossval"
        ok "there are some" test -s "$dir/crossval"
    else
        echo "install.sh: no run of crossval.sh in $run: features and probabilities from Python are not tested"
    fi
fi
if have Rscript "examples/shared_library.R"; then
    says 'AUC 0.9550 and 0.7300, z = 1.938, p = 0.0526' Rscript examples/shared_library.R
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
