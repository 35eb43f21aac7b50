# qnet.h: one header, nothing to install. A C compiler and make are all that is needed.
#
#   make demo     phantom cohort, cross-validation, report: the whole paper in miniature
#   make demo-echoes  the same from a scanner's echoes on: phantom echoes, maps, cross-validation, report
#   make test     every test; the last line is "N passed, N failed"
#   make examples the example programs, into build/; the header is compiled once for all of them
#   make paper    the full-size experiment: 52 + 47 subjects, 10 folds, the paper's epochs (days on two cores)
#   make bench    our own figures, per kernel and whole
#   make parity   our numbers beside PyTorch's and others', live, where Python is; the last line is "N agree, M differ"
#   make golden   makes the numbers in tests/golden anew, where Python and R are
#   make bench-peers  the same work by us and by PyTorch and others, side by side (needs python3)
#   make test-sanitize   the tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make test-faults     every allocation and every file operation failed in turn, under both sanitizers
#   make fuzz     each reader under clang's libFuzzer for FUZZ_SECONDS; FUZZ="nifti gzip" picks targets
#   make test-openblas   the tests of the networks with OpenBLAS plugged in
#   make test-arm test-i386 test-big-endian test-windows test-wasm test-wasm-simd   tests on other systems, by
#                 cross-compilers and emulators: each says which packages it needs
#   make shared   the header as a shared library, build/shared/libqnet.so
#   make install  header, library, and the files of pkg-config and CMake, under PREFIX (/usr/local), DESTDIR before it
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
# Everything private to one file, so that what it does not call takes no time to compile.
PRIVATE = -DQNET_STATIC
OPENMP := $(shell echo 'int main(void){return 0;}' > /tmp/qnet-openmp-$$$$.c; \
    $(CC) -fopenmp /tmp/qnet-openmp-$$$$.c -o /tmp/qnet-openmp-$$$$ 2>/dev/null && echo -fopenmp; \
    rm -f /tmp/qnet-openmp-$$$$.c /tmp/qnet-openmp-$$$$)
HAVE_CXX := $(shell command -v $(firstword $(CXX)) 2>/dev/null)
JOBS := $(shell nproc 2>/dev/null || echo 2)
BUILD = build

# Threads that wait asleep: on a machine that others use too, spinning ones can cost a factor of ten.
export OMP_WAIT_POLICY ?= passive

PROGRAMS := $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c)) $(BUILD)/crossval $(BUILD)/maps $(BUILD)/predict
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
# The networks once more in double precision, where gradients agree to 1e-7, and the plain loops of the reference alone.
DOUBLE := $(patsubst %,$(BUILD)/tests/double_%,gemm fuse conv stem layers lstm resnet scan optim train parity fft susceptibility)
REFERENCE := $(patsubst %,$(BUILD)/tests/reference_%,gemm conv layers)
COMMA := ,
FAULTS := $(patsubst tests/faults/%.c,$(BUILD)/tests/faults_%,$(wildcard tests/faults/*.c))
# Every file operation is caught by the linker: GNU's and its like.
WRAPPED := $(addprefix -Wl$(COMMA)--wrap=,fopen fclose fread ferror rewind fwrite fseek ftell open close read write \
    flock fsync fstat stat mkdir opendir readdir closedir remove rename)
WRAP := $(shell echo 'int main(void){return 0;}' > /tmp/qnet-wrap-$$$$.c; \
    $(CC) -Wl,--wrap=fopen /tmp/qnet-wrap-$$$$.c -o /tmp/qnet-wrap-$$$$ 2>/dev/null && echo yes; \
    rm -f /tmp/qnet-wrap-$$$$.c /tmp/qnet-wrap-$$$$)
FAULTS := $(if $(WRAP),$(FAULTS),$(filter-out %/faults_files,$(FAULTS)))
EXTRA_faults_files = $(WRAPPED)
# Fuzz targets, and the programs that run them on their corpora without a fuzzer.
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
CORPORA := $(FUZZ:%=$(BUILD)/tests/fuzz_%)

.PHONY: parity-python all examples demo demo-echoes paper test test-sanitize test-faults fuzz parity parity-build golden bench \
    bench-peers clean tests-build shared install

all: examples $(BUILD)/qnet_weights

examples: $(filter-out $(BUILD)/openblas $(BUILD)/fftw,$(PROGRAMS)) $(if $(HAVE_CXX),$(BUILD)/cpp_program)

# The header is compiled once for all of them: QNET_IMPLEMENTATION_DONE says that another file holds the
# implementation. Each also compiles alone: cc -I. examples/lstm_cell.c -lm
ELSEWHERE = -DQNET_IMPLEMENTATION_DONE

# Warnings are shown and kept beside the object, for tests/builds.sh.
KEPT = 2> $@.warnings; status=$$?; cat $@.warnings >&2; exit $$status

# Included, not compiled by its own name: only so can it include itself once per instruction set.
$(BUILD)/qnet.o: qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -I. -DQNET_IMPLEMENTATION -include qnet.h -x c -c /dev/null -o $@ $(KEPT)

$(BUILD)/trace: tests/plain_resnet.h tests/plain_scan.h

$(BUILD)/%: examples/%.c $(BUILD)/qnet.o $(wildcard examples/*.h examples/*/*.h)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ $< $(BUILD)/qnet.o $(EXTRA_$*) -lm

$(BUILD)/crossval: $(wildcard examples/crossval/*) examples/maps/settings.h weights_tools/pth.h $(BUILD)/qnet.o
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ examples/crossval/crossval.c $(BUILD)/qnet.o -lm

$(BUILD)/predict: $(wildcard examples/predict/* examples/crossval/* examples/maps/*) examples/table.h $(BUILD)/qnet.o
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ examples/predict/predict.c $(BUILD)/qnet.o -lm

$(BUILD)/maps: $(wildcard examples/maps/* examples/crossval/*) examples/table.h $(BUILD)/qnet.o
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ examples/maps/maps.c $(BUILD)/qnet.o -lm

$(BUILD)/qnet_weights: weights_tools/qnet_weights.c weights_tools/pth.h $(BUILD)/qnet.o
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ $< $(BUILD)/qnet.o -lm

EXTRA_own_threads = -pthread
EXTRA_openblas = -lopenblas
EXTRA_fftw = -lfftw3f

# In double.
$(BUILD)/gradcheck: examples/gradcheck.c tests/reference.h $(BUILD)/tests/qnet_double.o
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(ELSEWHERE) -I. -o $@ $< $(BUILD)/tests/qnet_double.o -lm

$(BUILD)/cpp_program: examples/cpp_program.cpp $(BUILD)/qnet.o
	@echo "  $@"
	@$(CXX) $(CXX11) $(CXXFLAGS) $(OPENMP) $(ELSEWHERE) -I. -o $@ $< $(BUILD)/qnet.o -lm

# ---- The main job ---------------------------------------------------------------------------------

demo: $(BUILD)/make_phantom $(BUILD)/crossval
	$(BUILD)/make_phantom --out out/demo-cohort $(DEMO_COHORT)
	$(BUILD)/crossval --data out/demo-cohort --out out/demo --resume $(DEMO_RUN)
	@echo "Open out/demo/report.html in a browser."

# From echoes: simulated whole heads, their maps with a page of quality for each, the same report.
demo-echoes: $(BUILD)/make_phantom $(BUILD)/maps $(BUILD)/crossval
	$(BUILD)/make_phantom --out out/echoes-cohort --echoes $(ECHOES_COHORT)
	$(BUILD)/maps --data out/echoes-cohort --out out/echoes-cohort/derivatives/qnet --resume
	$(BUILD)/crossval --data out/echoes-cohort --out out/demo-echoes --resume $(DEMO_RUN)
	@echo "Open out/demo-echoes/report.html and out/echoes-cohort/derivatives/qnet/sub-01.html in a browser."

# Few subjects, small images, few epochs, random initial weights: so the disease is half as strong again
# as in the full-size phantom (--effect 1), whose difficulty is that of the paper.
DEMO_COHORT = --scale small --effect 1.5
ECHOES_COHORT = --hh 8 --hc 8 --effect 1.5
DEMO_RUN = --size 64 --folds 3 --epochs1 8 --epochs2 20 --batch 32 --max-slices 8

paper: $(BUILD)/make_phantom $(BUILD)/crossval
	$(BUILD)/make_phantom --out out/paper-cohort --scale paper
	$(BUILD)/crossval --data out/paper-cohort --out out/paper --resume --repeats 3 $(PAPER_RUN)

# ---- Tests ----------------------------------------------------------------------------------------

test:
	@$(MAKE) --no-print-directory -j$(JOBS) tests-build
	@sh tests/run.sh $(BUILD) $(JOBS)

tests-build: $(TESTS) $(DOUBLE) $(REFERENCE) $(FAULTS) $(CORPORA) \
    examples $(BUILD)/qnet_weights

# The header is compiled once for all tests of a precision, with its private functions open to them.
OPEN = $(BUILD)/tests/open
$(OPEN)/qnet.h: qnet.h tests/open.awk
	@mkdir -p $(OPEN)
	@awk -f tests/open.awk qnet.h > $@

# What all files of one precision are compiled with.
OF_float = $(CHOICE) $(OPENMP)
OF_double = -DQNET_REAL=double
OF_reference = -DQNET_REFERENCE -DQNET_NO_FILES
UNSAFE = -DQNET_NO_FSYNC
# Double's tests take as long, and its object three fifths as long to compile.
OBJECT_double = -O1

OBJECTS := $(patsubst %,$(BUILD)/tests/qnet_%.o,float double reference)
$(OBJECTS): $(BUILD)/tests/qnet_%.o: $(OPEN)/qnet.h
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OBJECT_$*) $(OF_$*) $(UNSAFE) -DQNET_BODIES -DQNET_IMPLEMENTATION -include stdlib.h \
	    -include $(OPEN)/qnet.h -x c -c /dev/null -o $@ $(KEPT)

TEST_HEADERS = $(wildcard tests/*.h examples/*.h examples/*/*.h tests/golden/*.h)
TEST = @echo "  $@"; $(CC) $(C99) $(CFLAGS) -I$(OPEN) -I. -Iexamples -o $@ $<

$(BUILD)/tests/test_%: tests/test_%.c $(BUILD)/tests/qnet_float.o $(TEST_HEADERS)
	$(TEST) $(OF_float) $(BUILD)/tests/qnet_float.o $(EXTRA_test_$*) $(LIBS) -lm

$(BUILD)/tests/double_%: tests/test_%.c $(BUILD)/tests/qnet_double.o $(TEST_HEADERS)
	$(TEST) $(OF_double) $(BUILD)/tests/qnet_double.o $(EXTRA_test_$*) $(LIBS) -lm

$(BUILD)/tests/reference_%: tests/test_%.c $(BUILD)/tests/qnet_reference.o $(TEST_HEADERS)
	$(TEST) $(OF_reference) $(BUILD)/tests/qnet_reference.o $(EXTRA_test_$*) $(LIBS) -lm

# Is in double precision.
$(BUILD)/tests/test_gradcheck: tests/test_gradcheck.c examples/gradcheck.c $(BUILD)/tests/qnet_double.o $(TEST_HEADERS)
	$(TEST) $(BUILD)/tests/qnet_double.o $(LIBS) -lm

EXTRA_test_identity = -pthread
# Their plain loops take longer than what is tested.
EXTRA_test_conv = -O3
EXTRA_test_stem = -O3
EXTRA_test_resnet = -O3
# Optimising them takes longer than what it saves when they run.
EXTRA_test_experiment = -O0
EXTRA_test_report = -O0
$(BUILD)/tests/test_pth: weights_tools/pth.h
$(BUILD)/tests/test_identity: examples/own_threads.c
$(BUILD)/tests/test_audit: examples/audit_paper.c
$(BUILD)/tests/test_delong: examples/delong.c
$(BUILD)/tests/test_trace: examples/trace.c

# Needs no private function, and its file operations are caught when it is linked.
$(BUILD)/tests/faults_files: tests/faults/files.c $(BUILD)/qnet.o tests/test.h tests/memory.h $(wildcard tests/folder.h examples/*.[ch] examples/*/*.h)
	@echo "  $@"
	@mkdir -p $(BUILD)/tests
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) $(ELSEWHERE) $(EXTRA_faults_files) -I. -Iexamples -o $@ $< $(BUILD)/qnet.o -lm

$(BUILD)/tests/faults_%: tests/faults/%.c $(BUILD)/tests/qnet_float.o weights_tools/pth.h $(TEST_HEADERS)
	$(TEST) $(OF_float) $(BUILD)/tests/qnet_float.o $(EXTRA_faults_$*) -lm

EXTRA_faults_alloc = -O1

$(BUILD)/tests/fuzz_%: tests/fuzz/%.c tests/fuzz_main.c tests/fuzz/fuzz.h $(BUILD)/tests/qnet_float.o weights_tools/pth.h \
    $(TEST_HEADERS)
	$(TEST) $(OF_float) tests/fuzz_main.c $(BUILD)/tests/qnet_float.o -lm

# "all": every point, where `make test` tries a part of those that take long.
test-faults:
	@$(MAKE) --no-print-directory faults-run BUILD=build/sanitize OPENMP= \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"

faults-run: $(FAULTS) $(BUILD)/crossval $(BUILD)/make_phantom
	@failed=; for test in $(FAULTS); do $$test all || failed=1; done; test -z "$$failed"

# The inputs that a fuzzer makes gather in build/fuzz/corpus; what fails is kept as build/fuzz/NAME-crash-...
FUZZ_CC ?= clang
FUZZ_SECONDS ?= 30
fuzz:
	@mkdir -p $(BUILD)/fuzz
	@echo '#include <stddef.h>' > $(BUILD)/fuzz/empty.c
	@echo 'int LLVMFuzzerTestOneInput(const unsigned char *p, size_t n) { (void)p; return n > 99; }' >> $(BUILD)/fuzz/empty.c
	@$(FUZZ_CC) -fsanitize=fuzzer,address,undefined $(BUILD)/fuzz/empty.c -o $(BUILD)/fuzz/empty 2> /dev/null || \
	    { echo "make fuzz: needs clang with libFuzzer (Debian: clang and libclang-rt-dev; FUZZ_CC=...)"; exit 1; }
	@for name in $(FUZZ); do \
	    $(FUZZ_CC) -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	        $(PRIVATE) -w -I. -Iexamples tests/fuzz/$$name.c -o $(BUILD)/fuzz/$$name -lm || exit 1; \
	    mkdir -p $(BUILD)/fuzz/corpus/$$name; \
	    dictionary=; if [ -f tests/fuzz/$$name.dict ]; then dictionary=-dict=tests/fuzz/$$name.dict; fi; \
	    $(BUILD)/fuzz/$$name $$dictionary -max_len=4096 -rss_limit_mb=1024 -timeout=20 -print_final_stats=1 \
	        -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(BUILD)/fuzz/$$name- \
	        $(BUILD)/fuzz/corpus/$$name tests/fuzz/corpus/$$name > $(BUILD)/fuzz/$$name.txt 2>&1 || \
	        { tail -n 40 $(BUILD)/fuzz/$$name.txt; exit 1; }; \
	    echo "$$name: $$(sed -n 's/.*executed_units: *//p' $(BUILD)/fuzz/$$name.txt) inputs, none failed"; \
	done

test-sanitize:
	@$(MAKE) --no-print-directory test BUILD=build/sanitize OPENMP= \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"

# Other systems by cross-compilers and emulators, and OpenBLAS as the hook that is used when none is given. These
# take long and need packages, which each names: they are no part of `make test`. ONLY="gemm conv" picks tests.
FOREIGN = test-arm test-i386 test-big-endian test-windows test-wasm test-wasm-simd test-openblas
.PHONY: $(FOREIGN)
$(FOREIGN): test-%:
	@sh tests/foreign.sh $* $(BUILD) $(OPENMP)

# ---- Comparison with other software ---------------------------------------------------------------

# Our side: programs that tests/parity/parity_*.py run. The networks in both precisions.
PARITY = $(addprefix $(BUILD)/parity/,nets_float nets_double data weights_probe maps_float maps_double) \
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

$(BUILD)/parity/%_double: tests/parity/%.c qnet.h $(wildcard tests/*.h tests/golden/*.h)
	@mkdir -p $(BUILD)/parity
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -DQNET_REAL=double -I. -o $@ $< -lm

$(BUILD)/parity/%_float: tests/parity/%.c qnet.h $(wildcard tests/*.h tests/golden/*.h)
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

$(BUILD)/bench $(BUILD)/ours: $(BUILD)/%: bench/%.c bench/machine.h bench/echoes.h tests/golden/formula.h qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(OPENMP) -I. -o $@ $< -lm

# Where libopenblas-dev is: build/bench-openblas --blas shows every row with either matrix product.
$(BUILD)/bench-openblas: bench/bench.c bench/machine.h bench/echoes.h qnet.h
	@mkdir -p $(BUILD)
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(CHOICE) $(OPENMP) -DBENCH_OPENBLAS -I. -o $@ $< -lopenblas -lm

# Side by side with PyTorch, ONNX Runtime, Albumentations, scikit-learn and pROC, in a virtual
# environment of their own. PEERS="--only train_64_b64 --rounds 3": bench/peers.py --help
bench-peers: $(BUILD)/ours $(BUILD)/make_phantom $(BUILD)/crossval
	python3 bench/peers.py --venv $(BUILD)/venv-peers --ours $(BUILD)/ours $(PEERS)

# ---- For programs that want a library -------------------------------------------------------------

PREFIX ?= /usr/local
VERSION := $(shell sed -n 's/^.define QNET_VERSION "\(.*\)"/\1/p' qnet.h)
SOVERSION := $(basename $(VERSION))# before 1.0 each minor version has an interface of its own
ifeq ($(shell uname -s),Darwin)
LIBRARY = libqnet.$(VERSION).dylib
SONAME = libqnet.$(SOVERSION).dylib
LINKNAME = libqnet.dylib
SHARED = -dynamiclib -Wl,-install_name,@rpath/$(SONAME)
else
LIBRARY = libqnet.so.$(VERSION)
SONAME = libqnet.so.$(SOVERSION)
LINKNAME = libqnet.so
SHARED = -shared -Wl,-soname,$(SONAME)
endif

shared: $(BUILD)/shared/$(LIBRARY)

# Nothing but the public functions is seen from outside.
$(BUILD)/shared/$(LIBRARY): qnet.h
	@mkdir -p $(BUILD)/shared
	@echo "  $@"
	@$(CC) $(C99) $(CFLAGS) $(OPENMP) -fPIC -fvisibility=hidden -DQNET_API='__attribute__((visibility("default")))' \
	    -I. -DQNET_IMPLEMENTATION $(SHARED) $(LDFLAGS) -o $@ -include qnet.h -x c /dev/null -lm
	@ln -sf $(LIBRARY) $(BUILD)/shared/$(SONAME)
	@ln -sf $(SONAME) $(BUILD)/shared/$(LINKNAME)

define PKG_CONFIG_FILE
prefix=$(PREFIX)
includedir=$${prefix}/include
libdir=$${prefix}/lib

Name: qnet
Description: Q-Net, brain iron in hemochromatosis from QSM, R2* and T1W
Version: $(VERSION)
Cflags: -I$${includedir}
Libs: -L$${libdir} -lqnet
endef

# qnet::qnet is the shared library; qnet::header the header alone, with QNET_IMPLEMENTATION in a file of the user's.
define CMAKE_FILE
if(NOT TARGET qnet::qnet)
  get_filename_component(QNET_PREFIX "$${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
  add_library(qnet::header INTERFACE IMPORTED)
  set_target_properties(qnet::header PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$${QNET_PREFIX}/include"
    INTERFACE_LINK_LIBRARIES m)
  add_library(qnet::qnet SHARED IMPORTED)
  set_target_properties(qnet::qnet PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$${QNET_PREFIX}/include"
    IMPORTED_LOCATION "$${QNET_PREFIX}/lib/$(LIBRARY)" IMPORTED_SONAME "$(SONAME)")
endif()
endef

define CMAKE_VERSION_FILE
set(PACKAGE_VERSION $(VERSION))
string(FIND "$(VERSION)." "$${PACKAGE_FIND_VERSION_MAJOR}.$${PACKAGE_FIND_VERSION_MINOR}." QNET_AT)
if(QNET_AT EQUAL 0 AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
endef

export PKG_CONFIG_FILE CMAKE_FILE CMAKE_VERSION_FILE
INTO = $(DESTDIR)$(PREFIX)

install: shared
	@mkdir -p "$(INTO)/include" "$(INTO)/lib/pkgconfig" "$(INTO)/lib/cmake/qnet"
	install -m 644 qnet.h "$(INTO)/include/qnet.h"
	install -m 755 $(BUILD)/shared/$(LIBRARY) "$(INTO)/lib/$(LIBRARY)"
	@ln -sf $(LIBRARY) "$(INTO)/lib/$(SONAME)"
	@ln -sf $(SONAME) "$(INTO)/lib/$(LINKNAME)"
	@printf '%s\n' "$$PKG_CONFIG_FILE" > "$(INTO)/lib/pkgconfig/qnet.pc"
	@printf '%s\n' "$$CMAKE_FILE" > "$(INTO)/lib/cmake/qnet/qnetConfig.cmake"
	@printf '%s\n' "$$CMAKE_VERSION_FILE" > "$(INTO)/lib/cmake/qnet/qnetConfigVersion.cmake"

clean:
	rm -rf $(BUILD) out
