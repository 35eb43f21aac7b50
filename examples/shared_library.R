# shared_library: DeLong's test of qnet.h from R.
#
#     make shared
#     Rscript examples/shared_library.R
#
# It prints p = 0.0526, as build/delong does. R's .C passes pointers to vectors only, and the library wants a
# context and a count by value; so fifteen lines of C stand between, compiled by R CMD SHLIB.
# QNET_LIBRARY names a library in another place than build/shared.
root <- normalizePath(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(), value = TRUE))), ".."))
suffix <- if (Sys.info()[["sysname"]] == "Darwin") "dylib" else "so"
library <- Sys.getenv("QNET_LIBRARY", file.path(root, "build", "shared", paste0("libqnet.", suffix)))
if (!file.exists(library)) stop("no library ", library, " (make shared makes it)")
between <- '
#include "qnet.h"
#include <string.h>
void r_delong(int *label, double *one, double *two, int *cluster, int *clustered, int *count,
              double *result, char **sentence)
{
    qnet_context *ctx;
    qnet_delong d = { { 0, 0 } };
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return;
    if (qnet_delong_test(ctx, label, one, two, *clustered ? cluster : NULL, (size_t)*count, &d) != QNET_OK)
        strncat(strcpy(*sentence, ""), qnet_last_error(ctx), 499);
    else strcpy(*sentence, "");
    qnet_context_destroy(ctx);
    memcpy(result, &d, 8 * sizeof *result); /* auc, variance: 2 each; covariance, se, z, p */
}'

folder <- tempfile("qnet")
dir.create(folder)
writeLines(between, file.path(folder, "between.c"))
here <- normalizePath(dirname(library))
Sys.setenv(PKG_CPPFLAGS = paste0("-I", shQuote(root)),
           PKG_LIBS = paste0("-L", shQuote(here), " -Wl,-rpath,", shQuote(here), " -lqnet"))
between <- file.path(folder, paste0("between", .Platform$dynlib.ext))
made <- system2(file.path(R.home("bin"), "R"), c("CMD", "SHLIB", "-o", between, file.path(folder, "between.c")),
                stdout = TRUE, stderr = TRUE)
if (!file.exists(between)) stop(paste(c("R CMD SHLIB:", made), collapse = "\n"))
dyn.load(between)

delong <- function(label, one, two, cluster = NULL) {
    stopifnot(length(one) == length(label), length(two) == length(label), length(cluster) %in% c(0, length(label)))
    r <- .C("r_delong", as.integer(label), as.double(one), as.double(two), as.integer(factor(cluster)),
            length(cluster), length(label), result = double(8), sentence = strrep(" ", 500), NAOK = TRUE)
    if (nzchar(r$sentence)) stop(r$sentence)
    setNames(r$result, c("auc1", "auc2", "variance1", "variance2", "covariance", "se", "z", "p"))
}

one <- c(.91, .85, .78, .73, .66, .61, .58, .95, .44, .70, .12, .25, .31, .44, .52, .08, .39, .63, .17, .29)
two <- c(.62, .70, .35, .80, .55, .30, .66, .90, .41, .52, .45, .20, .58, .33, .61, .15, .48, .40, .27, .72)
d <- delong(rep(1:0, each = 10), one, two)
cat(sprintf("AUC %.4f and %.4f, z = %.3f, p = %.4f\n", d["auc1"], d["auc2"], d["z"], d["p"]))
