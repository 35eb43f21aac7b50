/* examples/gradcheck.c in double: all layers and both networks below 1e-7, and that it would see an
   error: a gradient that is wrong in one number. */
#define QNET_REAL double
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include <stdarg.h>

static char last_line[200];
static int lines, quiet;
static int quiet_printf(const char *format, ...)
{
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(last_line, sizeof last_line, format, list);
    va_end(list);
    lines++;
    if (!quiet && strstr(last_line, "FAILS")) fputs(last_line, stdout);
    return n;
}
#define main gradcheck_main
#define printf quiet_printf
#include "gradcheck.c"
#undef printf
#undef main

static void test_all_layers(void)
{
    static char program[] = "gradcheck";
    char *arguments[] = {program, NULL};
    CHECK(gradcheck_main(1, arguments) == 0);
    CHECK(failed == 0 && checked == 47 && lines == checked + 2);
    CHECK_CONTAINS(last_line, "47 gradients, 0 fail");
}

static void test_it_can_fail(void)
{
    double error;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    qnet_dense_backward(ctx, 6, 7, 3, a, b, r, da, db, dc, NULL);
    error = worst_gradient(f_dense, NULL, b, db, 21, 3e-5).error;
    CHECK(error < 1e-7);
    db[13] *= 1 + 1e-5;
    error = worst_gradient(f_dense, NULL, b, db, 21, 3e-5).error;
    CHECK(error > 1e-6 && error < 1e-4);
    quiet = 1;
    row("a gradient that is wrong", "b", 21, HUGE_VAL);
    CHECK(failed == 1);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_all_layers);
    RUN(test_it_can_fail);
    return test_end();
}
