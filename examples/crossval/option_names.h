/* option_names.h: the library's sentences name fields of its configuration; in those of programs they are options. */
#ifndef OPTION_NAMES_H
#define OPTION_NAMES_H
#include <stdio.h>
#include <string.h>

/* The sentence into text, which it returns. group (NULL: none), of a place in the sentence and its start: what
   stands for the two letters there, or NULL. */
static const char *option_names(const char *sentence, const char *(*group)(const char *at, const char *start),
                                char text[2000])
{
    const char *const start = sentence;
    static const char *const names[][2] = {
        {"set any_values", "give --any-values"},
        {"set locate", "give --locate"},
        {"set any_orientation", "give --any-orientation"},
        {"(set positive and negative to name other groups)",
         "(--positive NAME --negative NAME are for other groups)"},
        {"set group_column to the one of the groups", "--group-column NAME is for another one"},
        {"choose with derivatives=", "choose with --derivatives "},
        {"choose with filter=", "choose with --filter "},
        {"choose with session=", "choose with --session "},
        {"choose with t1w=", "choose with --t1w "},
        {"choose with a table of files", "choose with --maps FILE (--write-maps makes one)"},
        {", with filter=", ", with --filter "},
        {"filter: expected", "--filter: expected"},
        {"exclude: ", "--exclude: "},
        {"subgroups: ", "--subgroups: "},
        {", then collect", " with --part K/N --resume, then --collect"},
        {"input configuration: slice_count", "--slices FIRST:N: N is"},
        {"expected max_slices", "expected --max-slices"},
        {"input configuration: size", "--size"},
        {"experiment: part ", "--part: part "},
        {"folds: ", "--folds: "},
        {"with inner_validation", "with --inner-validation"},
        {"\"stage1.epochs=", "\"--epochs1 "},
        {"\"stage2.epochs=", "\"--epochs2 "},
        {"\"stage1.batch=", "\"--batch "},
        {"\"folds=", "\"--folds "},
        {"\"repeats=", "\"--repeats "},
        {"\"seed=", "\"--seed "},
        {"\"bootstrap=", "\"--bootstrap "},
        {"\"size=", "\"--size "},
        {"\"max_slices=", "\"--max-slices "},
        {"\"slice_first=", "\"--slices FIRST "},
        {"\"slice_count=", "\"--slices N "},
        {"\"box_explicit=", "\"--center "},
        {"\"box_center_mm.0=", "\"--center X "},
        {"\"box_center_mm.1=", "\"--center Y "},
        {"\"stretch=", "\"--stretch "},
        {"\"augment.physics_safe=", "\"--physics-safe "},
        {"\"shuffle_labels=", "\"--shuffle-labels "},
        {"\"input=", "\"--input "},
        {"\"kernels=", "\"--cpu "}};
    size_t n = 0;
    while (*sentence && n + 100 < 2000) {
        size_t i = 0;
        while (i < sizeof names / sizeof *names && strncmp(sentence, names[i][0], strlen(names[i][0]))) i++;
        if (i == sizeof names / sizeof *names) {
            const char *name = group ? group(sentence, start) : NULL;
            if (name) n += (size_t)sprintf(text + n, "%s", name);
            else text[n++] = *sentence;
            sentence += name ? 2 : 1;
        } else {
            n += (size_t)sprintf(text + n, "%s", names[i][1]);
            sentence += strlen(names[i][0]);
        }
    }
    text[n] = '\0';
    return text;
}
#endif
