#!/bin/sh
# builds.sh BUILD: the header compiles without a warning wherever it may be dropped in: C99 and C++11, gcc and
# clang (where present), every switch, two translation units, any order of includes.
build=$1/builds
mkdir -p "$build"
passed=0 failed=0
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror'

check() # what, command...
{
    what=$1
    shift
    if "$@" > "$build/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$what: $*"
        head -n 20 "$build/log"
    fi
}

cat > "$build/one.c" <<'END'
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "qnet.h"
int main(void)
{
    qnet_context *ctx;
    qnet_hooks hooks = { 0 };
    (void)hooks;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    qnet_context_destroy(ctx);
    return 0;
}
END
sed 's/ = { 0 }//' "$build/one.c" > "$build/one.cpp"
cat > "$build/user.c" <<'END'
#include "qnet.h"
const char *user(void);
const char *user(void) { return qnet_status_text(QNET_ERROR_IO); }
END
cat > "$build/main.c" <<'END'
#include "qnet.h"
#define QNET_IMPLEMENTATION
#include "qnet.h"
const char *user(void);
int main(void) { return user() == qnet_status_text(QNET_ERROR_IO) ? 0 : 1; }
END
cat > "$build/static.c" <<'END'
#define QNET_STATIC
#define QNET_IMPLEMENTATION
#include "qnet.h"
const char *own(void);
const char *own(void) { return qnet_status_text(QNET_OK); }
END

for cc in gcc clang cc; do
    command -v $cc > /dev/null 2>&1 || continue
    [ $cc = cc ] && command -v gcc > /dev/null 2>&1 && continue
    check "$cc C99" $cc -std=c99 $warn -Wc++-compat -O2 -fno-pic -I. -c "$build/one.c" -o "$build/one.o"
    openmp=
    echo 'int main(void) { return 0; }' > "$build/empty.c"
    $cc -fopenmp "$build/empty.c" -o "$build/empty" > /dev/null 2>&1 && openmp=-fopenmp
    for switch in QNET_REAL=double QNET_REFERENCE QNET_NO_STDIO QNET_NO_OPENMP QNET_NO_SIMD; do
        check "$cc $switch" $cc -std=c99 $warn -Wc++-compat -O1 $openmp -D$switch -I. -S "$build/one.c" -o "$build/$switch.s"
        check "link $switch" $cc $openmp "$build/$switch.s" -o "$build/one" -lm
        check "run $switch" "$build/one"
    done
    # switches that leave something out leave it out
    check "$cc NO_SIMD without AVX" sh -c "! grep -q ymm '$build/QNET_NO_SIMD.s'"
    check "$cc NO_OPENMP without OpenMP" sh -c "! grep -qiE 'gomp|kmpc|omp_get' '$build/QNET_NO_OPENMP.s'"
    case $(uname -m)$openmp in x86_64-fopenmp)
        # what is looked for is there otherwise
        check "$cc has AVX" grep -q ymm "$build/QNET_NO_OPENMP.s"
        check "$cc has OpenMP" grep -qiE 'gomp|kmpc|omp_get' "$build/QNET_NO_SIMD.s"
    esac
    check "$cc static" $cc -std=c99 $warn -O1 $openmp -I. -c "$build/static.c" -o "$build/static.o"
    check "$cc unit 1" $cc -std=c99 $warn -O1 -I. -c "$build/user.c" -o "$build/user.o"
    check "$cc unit 2" $cc -std=c99 $warn -O1 -I. "$build/main.c" "$build/user.o" "$build/static.o" -o "$build/two" -lm
    check "two units" "$build/two"
    # no writable data: no globals
    if command -v nm > /dev/null 2>&1; then
        check "$cc no globals" sh -c "! nm '$build/one.o' | grep -E ' [BbDdCc] '"
        check "$cc only qnet names" sh -c "! nm -g --defined-only '$build/one.o' | grep -vE ' (qnet_[a-z0-9_]+|main)$'"
        # tests/faults/files.c fails each file function that the header calls; what it does not know is not called
        check "$cc known file functions" sh -c "! nm -u '$build/one.o' | grep -wE '(open|openat|creat|fopen|freopen|fdopen|tmpfile|tmpnam|mkstemp|fstat|lstat|stat)(at|64)|creat|openat|freopen|fdopen|tmpfile|tmpnam|mkstemp|lstat|access|unlink|rmdir|link|symlink|f?truncate|l?seek|pwrite|readv|writev|fgets|f?getc|fputs|f?putc|v?fprintf|fscanf|setvbuf|fflush|fseeko|ftello|f[gs]etpos|fcntl|lockf|ioctl|mmap|chmod|chdir|dup2?|pipe|popen|system|scandir|nftw|glob'"
        check "$cc no prints, no exits" sh -c "! nm -u '$build/one.o' | grep -wE 'printf|puts|putchar|exit|abort|_exit|getenv'"
    fi
done
for cxx in g++ clang++ c++; do
    command -v $cxx > /dev/null 2>&1 || continue
    [ $cxx = c++ ] && command -v g++ > /dev/null 2>&1 && continue
    check "$cxx C++11" $cxx -std=c++11 $warn -O1 -I. "$build/one.cpp" -o "$build/one" -lm
    check "run C++" "$build/one"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
