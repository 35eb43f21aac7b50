/* usage.h: what the small programs say of themselves: to --help, and to arguments of another number. */
#ifndef EXAMPLES_USAGE_H
#define EXAMPLES_USAGE_H
#include <stdio.h>
#include <string.h>

/* -1: go on, --help is not asked for and there are least..most arguments. Otherwise text is printed, and this
   is the exit status. */
static int usage(int argc, char **argv, int least, int most, const char *text)
{
    const int help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (!help && argc > least && argc <= most + 1) return -1;
    fprintf(help ? stdout : stderr, "usage: %s\n", text);
    return help ? 0 : 2;
}

#endif
