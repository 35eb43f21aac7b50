# open.awk: qnet.h with its private functions open to the tests, so that it is compiled once for all of them. The
# file that defines QNET_BODIES gets the functions, every other their declarations. A body stands between "{" and
# "}" at the left margin, or on one line. Kernels, compiled for each instruction set, and inlined functions stay
# as they are. What only kernels include is left to that file, too: it took most of the time to compile a test.
/^#include <immintrin.h>/ { print "#ifdef QNET_BODIES\n" $0 "\n#endif"; next }
/^#ifdef QNET__SUFFIX/ { kernels = 1; $0 = "#if defined(QNET__SUFFIX) && defined(QNET_BODIES)" }
/^#endif \/\* QNET__SUFFIX/ { kernels = 0 }
/^QNET__INLINE/ { inlined = 1 }
kernels || inlined { print; if (/^}$/) inlined = 0; next }
/^(static|QNET__HELPER) [^=]*\(/ { sub(/^[^ ]* /, "") }
/^[a-zA-Z].*\) \{.*\}$/ { declaration = $0; sub(/ \{.*/, ";", declaration)
    print "#ifdef QNET_BODIES\n" $0 "\n#else\n" declaration "\n#endif"; next }
/^[{]$/ { body = 1; print "#ifdef QNET_BODIES" }
{ print }
body && /^}$/ { body = 0; print "#else\n;\n#endif" }
