#!/bin/sh
# builds.sh BUILD PART: the header compiles without a warning wherever it may be dropped in: C99 and C++11, gcc and
# clang (where present), every switch, two translation units, any order of includes. PART: gcc, clang, or rest (C++,
# Windows).
build=$1/builds-$2
mkdir -p "$build"
compilers=
case $2 in
gcc) compilers=gcc; command -v gcc > /dev/null 2>&1 || compilers=cc ;;
clang) compilers=clang ;;
esac
command -v "$compilers" > /dev/null 2>&1 || compilers=
passed=0 failed=0
made=$1
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror'

end()
{
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
    exit
}

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
cat > "$build/types.c" <<'END'
#define QNET_STATIC
#include "qnet.h"
qnet_status types(void);
qnet_status types(void) { return QNET_OK; }
END
cat > "$build/static.c" <<'END'
#define QNET_STATIC
#define QNET_IMPLEMENTATION
#include "qnet.h"
const char *own(void);
const char *own(void) { return qnet_status_text(QNET_OK); }
END

# Words that are macros in a header of somebody's: windows.h, rpcndr.h, complex.h, sysmacros.h, X.h, a program's.
{
    for word in near far interface ERROR DELETE IN OUT OPTIONAL CONST VOID pascal cdecl hyper unix linux major minor \
        I N T E PI EPS STEP VECTORS SIZE COUNT WIDTH HEIGHT DEPTH TRUE FALSE NONE None Bool Status Success LANES \
        TILE BATCH DEBUG LOG INFO WARNING; do
        echo "#define $word ?"
    done
    echo '#define small char'
    echo '#define min(a, b) ?'
    echo '#define max(a, b) ?'
} > "$build/hostile.h"
cat > "$build/real.c" <<'END'
#include "qnet.h"
int own(qnet_context **ctx);
int own(qnet_context **ctx) { return qnet_context_create(NULL, ctx) == QNET_OK; }
END

# Rooms left out: what stays links and runs, what went is not in the object file.
cat > "$build/metrics.c" <<'END'
#define QNET_IMPLEMENTATION
#include "qnet.h"
int main(void)
{
    static const int label[6] = {1, 1, 1, 0, 0, 0};
    static const double a[6] = {.9, .8, .4, .5, .2, .1}, b[6] = {.9, .3, .4, .5, .2, .8};
    qnet_context *ctx;
    qnet_delong d;
    int ok;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    ok = qnet_delong_test(ctx, label, a, b, NULL, 6, &d) == QNET_OK && d.auc[0] > d.auc[1];
    qnet_context_destroy(ctx);
    return !ok;
}
END
cat > "$build/network.c" <<'END'
#define QNET_IMPLEMENTATION
#include "qnet.h"
int main(void)
{
    static qnet_real x[32 * 32 * 3];
    qnet_real logits[QNET_CLASSES];
    qnet_context *ctx;
    qnet_resnet_config config;
    qnet_resnet *net;
    int ok;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.batch = 1;
    config.training = 0;
    if (qnet_resnet_create(ctx, &config, &net) != QNET_OK) return 1;
#ifndef QNET_ONLY_INFERENCE /* there all weights are 0 until a file is read */
    qnet_resnet_init(net, 1);
#endif
    ok = qnet_resnet_forward(net, x, 1, 0, logits, NULL) == QNET_OK;
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return !ok;
}
END

echo '#include "qnet.h"' > "$build/types_public.c"

for cc in $compilers; do
    # Without optimisation all compiles in a tenth of the time, and has the same warnings but for values that are not
    # set, which gcc sees only when it optimises: make has kept what it said of what it compiled so.
    check "$cc C99" $cc -std=c99 $warn -Wc++-compat -O0 -fno-pic -I. -c "$build/one.c" -o "$build/one.o"
    openmp=
    echo 'int main(void) { return 0; }' > "$build/empty.c"
    $cc -fopenmp "$build/empty.c" -o "$build/empty" > /dev/null 2>&1 && openmp=-fopenmp
    for switch in QNET_REAL=double QNET_REFERENCE QNET_NO_STDIO QNET_NO_OPENMP QNET_NO_SIMD; do
        check "$cc $switch" $cc -std=c99 $warn -Wc++-compat -O0 $openmp -D$switch -I. -S "$build/one.c" -o "$build/$switch.s"
        check "link $switch" $cc $openmp "$build/$switch.s" -o "$build/one" -lm
        check "run $switch" "$build/one"
    done
    for left in ONLY_METRICS:metrics:resnet,nifti,experiment ONLY_INFERENCE:network:resnet_backward,adam,delong,experiment \
        NO_FILES:network:nifti,file,experiment,fft NO_EXPERIMENT:network:experiment NO_MAPS:network:fft,maps,brain; do
        switch=${left%%:*} rest=${left#*:}
        source=${rest%%:*} gone=${rest#*:}
        check "$cc $switch" $cc -std=c99 $warn -Wc++-compat -O0 $openmp -DQNET_$switch -I. -c "$build/$source.c" -o "$build/$switch.o"
        check "link $switch" $cc $openmp "$build/$switch.o" -o "$build/left" -lm
        check "run $switch" "$build/left"
        check "$switch declares what is there" sh -c "$cc -std=c99 -DQNET_$switch -I. -E -P '$build/types_public.c' |
            grep -o 'extern [^;(]*[ *]qnet_[a-z0-9_]*' | sed 's/.*[ *]//' | sort > '$build/declared' &&
            nm '$build/$switch.o' | sed -n 's/.* T _*\(qnet_\)/\1/p' | sort | diff '$build/declared' -"
        for name in $(echo "$gone" | tr , ' '); do
            check "$switch without $name" sh -c "! nm '$build/$switch.o' | grep -q ' [Tt] qnet_$name'"
        done
    done
    check "$cc new_scan by inference alone" $cc -std=c99 $warn -O0 $openmp -DQNET_ONLY_INFERENCE -I. examples/new_scan.c \
        -o "$build/new_scan" -lm
    check "$cc new_scan's usage" sh -c "'$build/new_scan' 2>&1 | grep -q 'usage: new_scan OUT/model'"
    check "$cc NO_FILES without files" sh -c "! nm -u '$build/NO_FILES.o' | grep -wE 'fopen|open|rename|opendir'"
    check "$cc two ONLY" sh -c "$cc -DQNET_ONLY_METRICS -DQNET_ONLY_INFERENCE -I. -fsyntax-only '$build/network.c' 2>&1 |
        grep -q 'define one'"
    # switches that leave something out leave it out
    check "$cc NO_SIMD without AVX" sh -c "! grep -q %ymm '$build/QNET_NO_SIMD.s'"
    check "$cc NO_OPENMP without OpenMP" sh -c "! grep -qiE 'gomp|kmpc|omp_get' '$build/QNET_NO_OPENMP.s'"
    case $(uname -m)$openmp in x86_64-fopenmp)
        # what is looked for is there otherwise
        check "$cc has AVX" grep -q %ymm "$build/QNET_NO_OPENMP.s"
        check "$cc has OpenMP" grep -qiE 'gomp|kmpc|omp_get' "$build/QNET_NO_SIMD.s"
    esac
    # macros of others, before the header and all that it includes
    check "$cc hostile macros" $cc -std=c99 $warn -fsyntax-only -include "$build/hostile.h" -I. "$build/one.c"
    check "$cc own macros begin with QNET" sh -c "$cc -std=c99 -I. -E -dD '$build/one.c' |
        awk '/^# [0-9]/ { ours = \$3 ~ /qnet.h/ } ours && \$1 == \"#define\" && \$2 !~ /^QNET_|^qnet__/ { print; bad = 1 }
             END { exit bad }'"
    # a file that takes types only, and one whose networks have another precision than the implementation's
    check "$cc static, types only" $cc -std=c99 $warn -O0 -I. -c "$build/types.c" -o "$build/types.o"
    for real in float double; do
        check "$cc $real unit" $cc -std=c99 $warn -DQNET_REAL=$real -I. -c "$build/real.c" -o "$build/real-$real.o"
    done
    check "$cc float with float" $cc $openmp "$build/real-float.o" "$build/QNET_NO_SIMD.s" -o "$build/real" -lm
    check "$cc double with double" $cc $openmp "$build/real-double.o" "$build/QNET_REAL=double.s" -o "$build/real" -lm
    check "$cc double with float" sh -c "$cc $openmp '$build/real-double.o' '$build/QNET_NO_SIMD.s' -o '$build/real' -lm 2>&1 |
        grep -q qnet_context_create_double"
    check "$cc float with double" sh -c "$cc $openmp '$build/real-float.o' '$build/QNET_REAL=double.s' -o '$build/real' -lm 2>&1 |
        grep -q 'qnet_context_create\>'"
    check "$cc static" $cc -std=c99 $warn -O1 $openmp -I. -c "$build/static.c" -o "$build/static.o"
    check "$cc unit 1" $cc -std=c99 $warn -O0 -I. -c "$build/user.c" -o "$build/user.o"
    check "$cc unit 2" $cc -std=c99 $warn -O0 -I. "$build/main.c" "$build/user.o" "$build/static.o" -o "$build/two" -lm
    check "two units" "$build/two"
    # no writable data: no globals
    if command -v nm > /dev/null 2>&1; then
        check "$cc no globals" sh -c "! nm '$build/one.o' | grep -E ' [BbDdCc] '"
        check "$cc only qnet names" sh -c "! nm -g --defined-only '$build/one.o' | grep -vE ' (qnet_[a-z0-9_]+|main)$'"
        # tests/faults/files.c fails each file function that the header calls; what it does not know is not called
        check "$cc known file functions" sh -c "! nm -u '$build/one.o' | grep -wE '(open|openat|creat|fopen|freopen|fdopen|tmpfile|tmpnam|mkstemp|fstat|lstat|stat)(at|64)|creat|openat|freopen|fdopen|tmpfile|tmpnam|mkstemp|lstat|access|unlink|rmdir|link|symlink|f?truncate|l?seek|pread|pwrite|readv|writev|fgets|f?getc|fputs|f?putc|v?fprintf|fscanf|setvbuf|fflush|fseeko|ftello|f[gs]etpos|fcntl|lockf|ioctl|mmap|chmod|chdir|dup2?|pipe|popen|system|scandir|nftw|glob'"
        # what NO_STDIO takes of the system: memory, numbers as text, strings, sorting, maths
        check "$cc NO_STDIO assembled" $cc -c "$build/QNET_NO_STDIO.s" -o "$build/no_stdio.o"
        check "$cc NO_STDIO without files and clocks" sh -c "! nm -u '$build/no_stdio.o' |
            grep -E ' (f?open|fclose|fread|fwrite|f?stat|madvise|clock_gettime|time|timespec_get|rename|remove|mkdir|opendir)'"
        check "$cc NO_STDIO without time.h" sh -c "! $cc -DQNET_NO_STDIO -DQNET_NO_OPENMP -DQNET_NO_SIMD -I. -M '$build/one.c' |
            grep -w time.h"
        check "$cc no prints, no exits" sh -c "! nm -u '$build/one.o' | grep -wE 'printf|puts|putchar|exit|abort|_exit|getenv'"
    fi
done
# The header includes itself once per instruction set: under any name, from any folder and by any path. Pasted into
# another file it cannot, and compiles the one set that the flags allow.
mkdir -p "$build/lib" "$build/app/sub"
cp qnet.h "$build/lib/qnet.h"
cp qnet.h "$build/lib/renamed.h"
cp "$build/one.c" "$build/app/sub/one.c"
for how in 'lib/renamed.h' '../../lib/qnet.h' '../../lib/renamed.h' 'renamed.h'; do
    sed "s|qnet.h|$how|" "$build/one.c" > "$build/app/sub/$(echo "$how" | tr '/.' '__').c"
done
{ cat qnet.h; sed 1,3d "$build/one.c"; } > "$build/body.c"
{ echo '#define QNET_IMPLEMENTATION'; cat "$build/body.c"; } > "$build/pasted.c"
{ echo '#define QNET_PASTED'; cat "$build/pasted.c"; } > "$build/app/pasted.h"
echo '#include "pasted.h"' > "$build/app/pasted_user.c"
for cc in $compilers; do
    case $(uname -m) in x86_64) ;; *) continue ;; esac
    sets() { # options... file: the sets that are compiled
        $cc -std=c99 $warn -E -P -DQNET_NO_STDIO "$@" | grep -o 'qnet__isa_table_[a-z0-9]* = {' | tr -d '={ \n'
    }
    all=qnet__isa_table_avx512qnet__isa_table_avx2qnet__isa_table_plain
    check "$cc finds itself by -I" [ "$(cd "$build/app/sub" && sets -I../../lib one.c)" = $all ]
    check "$cc finds itself by -I below" [ "$(cd "$build" && sets -Ilib app/sub/one.c)" = $all ]
    check "$cc finds itself in brackets" [ "$(cd "$build" && sed 's/"qnet.h"/<qnet.h>/' one.c > brackets.c && sets -Ilib brackets.c)" = $all ]
    check "$cc finds itself renamed" [ "$(cd "$build" && sets -I. app/sub/lib_renamed_h.c)" = $all ]
    check "$cc finds itself renamed by -I" [ "$(cd "$build" && sets -Ilib app/sub/renamed_h.c)" = $all ]
    check "$cc finds itself by a path" [ "$(cd "$build/app" && sets sub/______lib_qnet_h.c)" = $all ]
    check "$cc finds itself renamed by a path" [ "$(sets "$build/app/sub/______lib_renamed_h.c")" = $all ]
    check "$cc pasted" [ "$(sets "$build/pasted.c")" = qnet__isa_table_plain ]
    check "$cc pasted into a header" [ "$(cd "$build/app" && sets pasted_user.c)" = qnet__isa_table_plain ]
    check "$cc pasted runs" sh -c "$cc -std=c99 $warn -O0 '$build/pasted.c' -o '$build/pasted' -lm && '$build/pasted'"
    check "$cc pasted into a header" $cc -std=c99 $warn -fsyntax-only "$build/app/pasted_user.c"
    for flags in '-mavx2 -mfma' -mavx512f; do
        check "$cc pasted $flags" $cc -std=c99 $warn -O0 $flags -c "$build/pasted.c" -o "$build/pasted.o"
    done
    # without optimisation the kernels must not multiply: inlined by force they were 20 MB
    check "$cc -O0 is small" [ "$(wc -c < "$build/one.o")" -lt 2500000 ]
done
if [ "$compilers" = gcc ] && [ "${made##*/}" = build ]; then # with sanitizers gcc warns of what is not so
    for object in qnet tests/qnet_float tests/qnet_double tests/qnet_reference; do
        check "no warnings in $object.o" test -f "$made/$object.o.warnings" -a ! -s "$made/$object.o.warnings"
    done
fi
[ "$2" = rest ] || end
for cxx in g++ clang++ c++; do
    command -v $cxx > /dev/null 2>&1 || continue
    [ $cxx = c++ ] && command -v g++ > /dev/null 2>&1 && continue
    check "$cxx C++11" $cxx -std=c++11 $warn -O0 -I. "$build/one.cpp" -o "$build/one" -lm
    check "run C++" "$build/one"
    useless=
    [ $cxx = g++ ] && useless=-Wuseless-cast
    check "$cxx old-style casts" $cxx -std=c++17 $warn -Wold-style-cast $useless -fsyntax-only -I. "$build/one.cpp"
done
# arithmetic that keeps more digits than float has, or as many as it likes
if [ "$(uname -m)" = x86_64 ] && command -v gcc > /dev/null 2>&1; then
    for options in -mfpmath=387 '-mfpmath=387 -std=c99'; do
        check "x87 is refused" sh -c "gcc $options -fsyntax-only -I. '$build/one.c' 2>&1 | grep -e '-mfpmath=sse'"
    done
fi
# Windows: mingw, in both kinds of its printf, after windows.h; and clang for Microsoft's, where mingw's headers
# stand in for theirs
if command -v x86_64-w64-mingw32-gcc > /dev/null 2>&1; then
    for standard in c99 gnu11; do
        check "mingw $standard" x86_64-w64-mingw32-gcc -std=$standard $warn -fsyntax-only -I. "$build/one.c"
        check "mingw $standard windows.h" x86_64-w64-mingw32-gcc -std=$standard $warn -fsyntax-only -include windows.h \
            -include rpc.h -I. "$build/one.c"
    done
    if command -v clang > /dev/null 2>&1; then
        include=$(x86_64-w64-mingw32-gcc -print-file-name=include)/../../../../../x86_64-w64-mingw32/include
        printf '#include <_mingw.h>\n#define __MINGW_IMPORT extern\n' > "$build/msvc.h"
        for avx in '' '-mavx2 -mfma' '-mavx512f'; do
            check "clang for Microsoft's $avx" clang --target=x86_64-pc-windows-msvc -fms-compatibility-version=19.30 \
                -fgnuc-version=4.2.1 -nostdinc -isystem "$(clang -print-resource-dir)/include" -isystem "$include" \
                -include "$build/msvc.h" -std=c99 $warn $avx -fsyntax-only -I. "$build/one.c"
        done
    fi
fi
end
