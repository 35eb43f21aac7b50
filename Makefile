# qnet.h: one header, nothing to install. A C compiler and make are all that is needed.
#
#   make demo     phantom cohort, cross-validation, report: the whole paper in miniature
#   make test     every test; the last line is "N passed, N failed"
#   make examples the example programs, into build/
#   make paper    the full-size experiment: 52 + 47 subjects, 10 folds, the paper's epochs (days on two cores)
#   make bench    our own figures, per kernel and whole
#   make parity   our numbers beside PyTorch's and others', live, where Python is; the last line is "N agree, M differ"
#   make golden   makes the numbers in tests/golden anew, where Python and R are
#   make bench-peers  the same work by us and by PyTorch and others, side by side (needs python3)
#   make test-sanitize   the tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make test-openblas   the tests of the networks with OpenBLAS plugged in
#   make test-faults     every file operation fails or is the last before a kill, one after the other
#   make test-arm the kernels for 64-bit ARM, cross-compiled and run by qemu
#   make clean

CC ?= cc
CXX ?= c++
CFLAGS ?= -O2
CXXFLAGS ?= -O2
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
C99 = -std=c99 $(WARN) -Wc++-compat
CXX11 = -std=c++11 $(WARN)
# QNET_CPU=scalar|avx2|avx512|neon in the environment picks the kernels of benchmarks and of float's tests.
CHOICE = -D'QNET_CPU_CHOICE=getenv("QNET_CPU")'
# Tests compile the header with everything in it private, so that what they do not call takes no time.
PRIVATE = -DQNET_STATIC
OPENMP := $(shell echo 'int main(void){return 0;}' > /tmp/qnet-openmp-$$$$.c; \
    $(CC) -fopenmp /tmp/qnet-openmp-$$$$.c -o /tmp/qnet-openmp-$$$$ 2>/dev/null && echo -fopenmp; \
    rm -f /tmp/qnet-openmp-$$$$.c /tmp/qnet-openmp-$$$$)
HAVE_CXX := $(shell command -v $(firstword $(CXX)) 2>/dev/null)
JOBS := $(shell nproc 2>/dev/null || echo 2)
BUILD = build

# Threads that wait asleep: on a machine that others use too, spinning ones can cost a factor of ten.
export OMP_WAIT_POLICY ?= passive

PROGRAMS := $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
comma := ,
WRAP := $(shell echo 'int main(void){return 0;}' > /tmp/qnet-wrap-$$$$.c; \
    $(CC) -Wl,--wrap=fopen /tmp/qnet-wrap-$$$$.c -o /tmp/qnet-wrap-$$$$ 2>/dev/null && echo yes; \
    rm -f /tmp/qnet-wrap-$$$$.c /tmp/qnet-wrap-$$$$)
TESTS += $(if $(WRAP),$(BUILD)/tests/test_fault_files)
# The networks once more in double precision, where gradients agree to 1e-7, and the plain-loop twins alone.
DOUBLE := $(patsubst %,$(BUILD)/tests/double_%,gemm fuse conv stem layers lstm resnet scan optim train parity)
REFERENCE := $(patsubst %,$(BUILD)/tests/reference_%,gemm conv layers)

.PHONY: parity-python all examples demo paper test test-sanitize test-openblas test-faults test-arm parity parity-build golden bench bench-peers clean tests-build

all: examples $(BUILD)/qnet_weights

examples: $(filter-out $(BUILD)/openblas,$(PROGRAMS)) $(if $(HAVE_CXX),$(BUILD)/cpp_program)

$(BUILD)/%: examples/%.c qnet.h $(wildcard examples/*.h)
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -I. -o $@ $< $(EXTRA_$*) -lm

$(BUILD)/crossval: weights_tools/pth.h

$(BUILD)/qnet_weights: weights_tools/qnet_weights.c weights_tools/pth.h qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -I. -o $@ $< -lm

EXTRA_own_threads = -pthread
EXTRA_openblas = -lopenblas

$(BUILD)/cpp_program: examples/cpp_program.cpp qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CXX) $(CXX11) $(CXXFLAGS) $(OPENMP) -I. -o $@ $< -lm

# ---- The main job ---------------------------------------------------------------------------------

demo: $(BUILD)/make_phantom $(BUILD)/crossval
	$(BUILD)/make_phantom --out out/demo-cohort $(DEMO_COHORT)
	$(BUILD)/crossval --data out/demo-cohort --out out/demo --resume $(DEMO_RUN)
	@echo "Open out/demo/report.html in a browser."

# Few subjects, small images, few epochs, random initial weights: so the disease is half as strong again
# as in the full-size phantom (--effect 1), whose difficulty is that of the paper.
DEMO_COHORT = --scale small --effect 1.5
DEMO_RUN = --size 64 --folds 3 --epochs1 8 --epochs2 20 --batch 32 --max-slices 8

paper: $(BUILD)/make_phantom $(BUILD)/crossval
	$(BUILD)/make_phantom --out out/paper-cohort --scale paper
	$(BUILD)/crossval --data out/paper-cohort --out out/paper --resume --repeats 3 $(PAPER_RUN)

# ---- Tests ----------------------------------------------------------------------------------------

test:
	@$(MAKE) --no-print-directory -j$(JOBS) tests-build
	@sh tests/run.sh $(BUILD)

tests-build: $(TESTS) $(DOUBLE) $(REFERENCE) $(BUILD)/crossval $(BUILD)/make_phantom $(BUILD)/qnet_weights

$(BUILD)/tests/test_pth: weights_tools/pth.h tests/golden/pth.h

$(BUILD)/tests/%: tests/%.c qnet.h tests/test.h $(wildcard examples/*.h tests/golden/*.h)
	@mkdir -p $(BUILD)/tests
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(PRIVATE) $(OPENMP) -I. -Iexamples -o $@ $< $(EXTRA_$*) -lm

# Every file operation of the header, caught by the linker (GNU's and its like).
FAULTS = $(patsubst %,-Wl$(comma)--wrap=%,fopen fclose fread ferror fwrite fseek ftell pread open close read write \
    flock fsync fstat stat mkdir opendir readdir closedir remove rename)
$(BUILD)/tests/test_fault_files: tests/faults/files.c qnet.h tests/test.h
	@mkdir -p $(BUILD)/tests
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(PRIVATE) -I. -Itests $(FAULTS) -o $@ $< -lm

# All points, where make test takes some of them: an hour and more.
test-faults: $(BUILD)/tests/test_fault_files
	@$< --every 1

EXTRA_test_identity = -pthread
$(BUILD)/tests/test_identity: examples/own_threads.c
$(BUILD)/tests/test_audit: examples/audit_paper.c
$(BUILD)/tests/test_gradcheck: examples/gradcheck.c
$(BUILD)/tests/test_trace: examples/trace.c

$(BUILD)/tests/double_%: tests/test_%.c qnet.h tests/test.h $(wildcard tests/golden/*.h)
	@mkdir -p $(BUILD)/tests
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) -DQNET_REAL=double $(PRIVATE) -I. -Iexamples -o $@ $< -lm

$(BUILD)/tests/reference_%: tests/test_%.c qnet.h tests/test.h
	@mkdir -p $(BUILD)/tests
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) -DQNET_REFERENCE $(PRIVATE) -I. -Iexamples -o $@ $< -lm

test-sanitize:
	@$(MAKE) --no-print-directory test BUILD=build/sanitize OPENMP= \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"

# The rooms that may ask a BLAS, with OpenBLAS as the hook that is used when none is given.
OPENBLAS_TESTS = $(patsubst %,$(BUILD)/openblas-tests/test_%,gemm conv fuse stem layers lstm resnet scan \
    optim train parity identity)

test-openblas:
	@mkdir -p $(BUILD)
	@echo 'int main(void) { return 0; }' > $(BUILD)/empty.c && $(CC) $(BUILD)/empty.c -o $(BUILD)/empty -lopenblas 2> /dev/null || \
	    { echo "make test-openblas: needs OpenBLAS (Debian: libopenblas-dev)"; exit 1; }
	@$(MAKE) --no-print-directory -j$(JOBS) $(OPENBLAS_TESTS)
	@failed=; for test in $(OPENBLAS_TESTS); do \
	    $$test > $$test.txt || failed=1; echo "$$test: $$(tail -n 1 $$test.txt)"; \
	done; test -z "$$failed"

$(BUILD)/openblas-tests/%: tests/%.c qnet.h tests/test.h $(wildcard examples/*.[ch] tests/golden/*.h)
	@mkdir -p $(BUILD)/openblas-tests
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(PRIVATE) $(OPENMP) -DQNET_USE_CBLAS -I. -Iexamples -o $@ $< -pthread -lopenblas -lm

# The kernels for 64-bit ARM, cross-compiled and run by qemu-user: the rooms that have such code, and a network.
ARM_CC ?= aarch64-linux-gnu-gcc
ARM_RUN ?= qemu-aarch64
ARM_TESTS = $(patsubst %,$(BUILD)/arm/test_%,foundation gemm conv fuse stem layers lstm optim scan resnet)

test-arm:
	@command -v $(ARM_CC) > /dev/null && command -v $(ARM_RUN) > /dev/null || \
	    { echo "make test-arm: needs $(ARM_CC) and $(ARM_RUN) (Debian: gcc-aarch64-linux-gnu, qemu-user)"; exit 1; }
	@$(MAKE) --no-print-directory -j$(JOBS) $(ARM_TESTS)
	@failed=; for test in $(ARM_TESTS); do \
	    $(ARM_RUN) $$test > $$test.txt || failed=1; echo "$$test: $$(tail -n 1 $$test.txt)"; \
	done; test -z "$$failed"

$(BUILD)/arm/%: tests/%.c qnet.h tests/test.h
	@mkdir -p $(BUILD)/arm
	@echo "  $@"
	@$(ARM_CC) $(C99) $(CFLAGS) $(CHOICE) $(PRIVATE) -static -I. -Iexamples -o $@ $< -lm

# ---- Comparison with other software ---------------------------------------------------------------

# Our side: programs that tests/parity/parity_*.py run. The networks in both precisions.
PARITY = $(addprefix $(BUILD)/parity/,nets_float nets_double data weights_probe) \
    $(addprefix $(BUILD)/,qnet_weights crossval make_phantom)

# Virtual environments: $(BUILD)/venv, and $(BUILD)/oracles for packages that need an old NumPy.
parity: parity-python
	@$(MAKE) --no-print-directory -j$(JOBS) parity-build
	@QNET_BUILD="$(abspath $(BUILD))" "$$(cat $(BUILD)/parity-python)" tests/parity/parity.py $(BUILD)

# The Python that has what is needed, or a sentence about what it lacks, before anything is built.
parity-python:
	@mkdir -p $(BUILD)
	@sh tests/parity/venv.sh parity $(BUILD)/venv > $(BUILD)/parity-python

parity-build: $(PARITY)

$(BUILD)/parity/weights_probe: weights_tools/pth.h

$(BUILD)/parity/%_double: tests/parity/%.c qnet.h $(wildcard tests/golden/*.h)
	@mkdir -p $(BUILD)/parity
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -DQNET_REAL=double -I. -o $@ $< -lm

$(BUILD)/parity/%_float: tests/parity/%.c qnet.h $(wildcard tests/golden/*.h)
	@mkdir -p $(BUILD)/parity
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -I. -o $@ $< -lm

$(BUILD)/parity/%: tests/parity/%.c qnet.h $(wildcard tests/golden/*.h)
	@mkdir -p $(BUILD)/parity
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -I. -o $@ $< -lm

# Each script writes its files beside itself, whole or not at all.
golden:
	@python=$$(sh tests/parity/venv.sh golden $(BUILD)/venv) && failed= && \
	    for script in tests/golden/make_*.py; do \
	        QNET_BUILD="$(abspath $(BUILD))" "$$python" $$script || failed="$$failed $$script"; \
	    done && if [ -n "$$failed" ]; then echo "make golden: failed:$$failed"; exit 1; fi

# ---- Benchmarks -----------------------------------------------------------------------------------

# BENCH="--quick", BENCH="--threads 1 --layers" ...: build/bench --help
bench: $(BUILD)/bench
	$(BUILD)/bench $(BENCH)

$(BUILD)/bench $(BUILD)/ours: $(BUILD)/%: bench/%.c bench/machine.h tests/golden/formula.h qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(OPENMP) -I. -o $@ $< -lm

# Where libopenblas-dev is: build/bench-openblas --blas shows every row with either matrix product.
$(BUILD)/bench-openblas: bench/bench.c bench/machine.h qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(OPENMP) -DBENCH_OPENBLAS -I. -o $@ $< -lopenblas -lm

# Side by side with PyTorch, ONNX Runtime, Albumentations, scikit-learn and pROC, in a virtual
# environment of their own. PEERS="--only train_64_b64 --rounds 3": bench/peers.py --help
bench-peers: $(BUILD)/ours
	python3 bench/peers.py --venv $(BUILD)/venv-peers --ours $(BUILD)/ours $(PEERS)

clean:
	rm -rf $(BUILD) out
