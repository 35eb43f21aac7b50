/* test.h: the whole test harness. Each test program includes it, RUNs its test functions and ends
   with `return test_end();`, which prints "N passed, N failed" as the last line. */
#ifndef TEST_H
#define TEST_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `make test-openblas`: a BLAS does the products. It adds up in longer chains, and an image's bits may
   depend on its batch. */
#ifdef QNET_USE_CBLAS
#define TEST_BLAS 1
#else
#define TEST_BLAS 0
#endif

static long test_passed, test_failed;
static const char *test_name = "";
static char test_path[600];

static int test_check(int ok, const char *file, int line, const char *what)
{
    if (ok) {
        test_passed++;
    } else {
        test_failed++;
        printf("%s:%d: %s: failed: %s\n", file, line, test_name, what);
    }
    return ok;
}

static int test_near(double a, double b, double tolerance, const char *file, int line, const char *what)
{
    int ok = fabs(a - b) <= tolerance; /* false for NaN */
    test_check(ok, file, line, what);
    if (!ok) printf("    got %.17g, expected %.17g, tolerance %g\n", a, b, tolerance);
    return ok;
}

static int test_contains(const char *text, const char *part, const char *file, int line)
{
    int ok = strstr(text, part) != NULL;
    test_check(ok, file, line, "sentence names what it should");
    if (!ok) printf("    got \"%s\", expected it to contain \"%s\"\n", text, part);
    return ok;
}

#define CHECK(condition) test_check(!!(condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(a, b, tolerance) test_near((double)(a), (double)(b), (tolerance), __FILE__, __LINE__, #a " near " #b)
#define CHECK_CONTAINS(text, part) test_contains((text), (part), __FILE__, __LINE__)
#define CHECK_OK(ctx, call) \
    do { \
        qnet_status test_status_ = (call); \
        test_check(test_status_ == QNET_OK, __FILE__, __LINE__, #call); \
        if (test_status_ != QNET_OK) printf("    %s: %s\n", qnet_status_name(test_status_), qnet_last_error(ctx)); \
    } while (0)
/* The call must fail with this status and a sentence that contains `part`. */
#define CHECK_FAILS(ctx, call, expected, part) \
    do { \
        qnet_status test_status_ = (call); \
        test_check(test_status_ == (expected), __FILE__, __LINE__, #call " fails with " #expected); \
        if (test_status_ != (expected)) printf("    got %s\n", qnet_status_name(test_status_)); \
        else test_contains(qnet_last_error(ctx), (part), __FILE__, __LINE__); \
    } while (0)
/* 1: this process has left a temporary file of path behind. */
#define TEMPORARY_LEFT(path) \
    (sprintf(test_path, "%.500s.%lx-0.tmp", (path), (unsigned long)qnet__process()), qnet_file_exists(test_path))
#define RUN(function) (test_name = #function, (function)())

static int test_end(void)
{
    (void)test_near; /* not every program needs all of the harness */
    (void)test_contains;
    (void)test_path;
    printf("%ld passed, %ld failed\n", test_passed, test_failed);
    return test_failed != 0;
}
#endif
