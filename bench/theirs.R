# pROC's side of bench/peers.py: `delong FILE COUNT ROUNDS` on stdin, one line of JSON each; FILE
# holds COUNT labels (int32) and twice COUNT scores (double), as `scores` of theirs.py writes them.
suppressMessages(library(pROC))
input <- file("stdin", "r")
processor <- Sys.getenv("PEERS_CLOCK") == "processor"
now <- function() if (processor) sum(proc.time()[1:2]) else proc.time()[["elapsed"]]
show <- function(seconds, values, text = "") {
    list_of <- function(x) paste(sprintf("%.17g", x), collapse = ", ")
    cat(sprintf('{"text": "%s", "seconds": [%s], "values": [%s]}\n', text, list_of(seconds),
                list_of(values)))
    flush(stdout())
}
while (length(line <- readLines(input, 1)) > 0) {
    word <- strsplit(line, " ")[[1]]
    if (word[1] == "hello") {
        show(numeric(0), numeric(0), paste(R.version.string, "pROC", packageVersion("pROC")))
        next
    }
    count <- as.integer(word[3])
    bytes <- file(word[2], "rb")
    label <- readBin(bytes, "integer", count, 4)
    a <- readBin(bytes, "double", count)
    b <- readBin(bytes, "double", count)
    close(bytes)
    seconds <- numeric(0)
    for (i in seq_len(as.integer(word[4]))) {
        start <- now()
        roc_a <- roc(label, a, levels = c(0, 1), direction = "<", quiet = TRUE)
        roc_b <- roc(label, b, levels = c(0, 1), direction = "<", quiet = TRUE)
        test <- roc.test(roc_a, roc_b, method = "delong", paired = TRUE)
        seconds <- c(seconds, now() - start)
    }
    show(seconds, c(auc(roc_a), auc(roc_b), var(roc_a), var(roc_b), cov(roc_a, roc_b),
                    test$statistic, test$p.value))
}
