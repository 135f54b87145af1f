PYTHON ?= python3
BIN := .venv/bin
EXTRAS := cpu,serve,evaluate,train,export,tensorrt,bench,dev
BUNDLE := build/demo/digits.mme
CPP_SOURCES := $(shell find runtime tests/runtime -name '*.cc' -o -name '*.c' -o -name '*.h' -o -name '*.hpp')
NATIVE := $(CPP_SOURCES) \
          $(shell find runtime -name 'CMakeLists.txt' -o -name '*.in' -o -name '*.inc' -o -name '*.map') \
          runtime/generate_abi.py CMakeLists.txt pyproject.toml
CUDA_SOURCES := $(shell find runtime -name '*.cu' -o -name '*.cuh') $(wildcard runtime/src/kernels/*/*_cuda.h)
# What includes TensorRT's headers.
TENSORRT_SOURCES := runtime/plugins/tensorrt_plugin.cc runtime/src/engine/tensorrt.cc
KERNELS := $(wildcard runtime/src/kernels/*/* runtime/src/preprocess/*)

FUZZ_SECONDS ?= 600
CUDA_ARCHITECTURES ?= native

.PHONY: help setup demo test lint docs test-cpp test-cuda check-tensorrt gpu-check fuzz test-aarch64 test-python test-all wheels bench bench-runtime clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- Set-up: Debian packages, a virtual environment, the library -----------------------------------------------------

setup: build/install.stamp  ## Install what is missing (apt, .venv) and build the library

build/packages.stamp: scripts/debian-packages.txt scripts/install-packages.sh
	@mkdir -p build
	sh scripts/install-packages.sh scripts/debian-packages.txt
	@touch $@

build/onnxruntime/usr/include: build/packages.stamp scripts/fetch-onnxruntime-headers.sh
	sh scripts/fetch-onnxruntime-headers.sh
	@touch $@

build/venv.stamp: build/packages.stamp constraints.txt pyproject.toml
	@# On a Jetson TensorRT's Python package is one of the system's.
	$(PYTHON) -m venv $(if $(wildcard /etc/nv_tegra_release),--system-site-packages) .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt pip scikit-build-core cffi
	@touch $@

build/install.stamp: build/venv.stamp build/onnxruntime/usr/include $(NATIVE)
	@echo "Installing the Python packages and building libmmedge (minutes, the first time)"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@

# ---- The demo: data, training, export, evaluation, one served request ------------------------------------------------

demo: build/demo/evaluation.json  ## From real data to a served answer: make the data, train, export, evaluate, serve
	$(BIN)/python scripts/demo.py --bundle $(BUNDLE) --evaluation build/demo/evaluation.json --data data/av-digits

data/av-digits/README.md: $(wildcard mmedge/data/*.py) | build/install.stamp
	$(BIN)/mmedge data av-digits data/av-digits
	@touch $@

runs/av-digits/metrics.json: data/av-digits/README.md recipes/av-digits.yaml $(KERNELS) \
                             $(wildcard mmedge/models/*.py mmedge/training/*.py mmedge/training/*/*.py mmedge/metrics/*.py)
	$(BIN)/mmedge train recipes/av-digits.yaml

$(BUNDLE)/manifest.json: runs/av-digits/metrics.json mmedge/exporting.py $(wildcard export/*.py calibration/*.py)
	@mkdir -p build/demo
	$(BIN)/mmedge export runs/av-digits -o $(BUNDLE) --overwrite
	@touch $@

build/demo/evaluation.json: $(BUNDLE)/manifest.json mmedge/evaluation.py $(wildcard mmedge/metrics/*.py runtime/*.py)
	$(BIN)/mmedge evaluate $(BUNDLE) data/av-digits --json > $@

# ---- Checks ----------------------------------------------------------------------------------------------------------

test: lint test-cpp test-cuda test-aarch64 test-python  ## Set up and run every check

lint: build/install.stamp  ## Formatting, types and static analysis
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The rooms as they are installed: under one name.
	rm -rf build/types && mkdir -p build/types/mmedge && ln -s $(CURDIR)/mmedge/* $(addprefix $(CURDIR)/,export calibration runtime) build/types/mmedge
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p mmedge
	$(BIN)/clang-format --dry-run -Werror $(sort $(CPP_SOURCES) $(CUDA_SOURCES)) $(wildcard benchmarks/*.c benchmarks/gpu/*.cc)
	cmake -S . -B build/release -G Ninja -DMMEDGE_TESTS=ON > build/configure.log
	$(BIN)/python docs/generate_c_api.py --check
	$(BIN)/python docs/generate_cli.py --check
	$(BIN)/python docs/generate_training.py --check
	$(BIN)/run-clang-tidy.py -quiet -clang-tidy-binary $(BIN)/clang-tidy -p build/release \
	  'runtime/(src|plugins)/.*\.cc$$' 2> /dev/null
	@# It does not know that threadIdx is below blockDim, and 64-bit offsets cost a GPU two instructions where an int does.
	$(BIN)/run-clang-tidy.py -quiet -clang-tidy-binary $(BIN)/clang-tidy -p build/release \
	  -checks=-clang-analyzer-security.ArrayBound,-bugprone-implicit-widening-of-multiplication-result \
	  'runtime/src/.*\.cu$$' 2> /dev/null

docs: build/install.stamp  ## Write the pages made of the header's comments, the commands' help and the recipe's keys
	$(BIN)/python docs/generate_c_api.py
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_training.py

build/bundles.stamp: build/install.stamp tests/make_bundles.py mmedge/exporting.py \
                     $(wildcard export/*.py calibration/*.py runtime/*.py mmedge/models/*.py)
	$(BIN)/python tests/make_bundles.py build/bundles
	@touch $@

ENGINE = MMEDGE_TEST_BUNDLES=$(CURDIR)/build/bundles \
         MMEDGE_ONNXRUNTIME=$$($(BIN)/python -c 'from mmedge.runtime.native import find_onnxruntime as f; print(f())')

test-cpp: build/bundles.stamp  ## The C and C++ tests, plain, under ASan and UBSan, and the threaded ones under TSan
	cmake -S . -B build/release -G Ninja -DMMEDGE_TESTS=ON > build/configure.log
	cmake -S . -B build/asan -G Ninja -DMMEDGE_TESTS=ON -DMMEDGE_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug \
	  > build/configure.log
	cmake -S . -B build/tsan -G Ninja -DMMEDGE_TESTS=ON -DMMEDGE_SANITIZE=thread > build/configure.log
	for kind in release asan tsan; do \
	  cmake --build build/$$kind && $(ENGINE) ctest --test-dir build/$$kind --timeout 600 --output-on-failure || exit 1; \
	done

# From nothing each time, so that the log has what ptxas says of every kernel.
build/cuda/ptxas.log: build/install.stamp $(CUDA_SOURCES) CMakeLists.txt runtime/CMakeLists.txt
	rm -rf build/cuda
	toolkit=$$(echo $(CURDIR)/.venv/lib/python*/site-packages/nvidia/cu13); \
	cmake -S . -B build/cuda -G Ninja -DMMEDGE_CUDA=ON -DCMAKE_CUDA_COMPILER=$$toolkit/bin/nvcc \
	  -DCMAKE_CUDA_FLAGS=-L$$toolkit/lib > build/configure.log
	cmake --build build/cuda --target mmedge_cuda_kernels opened_libraries > $@ || { cat $@; exit 1; }

test-cuda: build/cuda/ptxas.log  ## The CUDA kernels, compiled; test-cpp runs them, emulated
	$(BIN)/python scripts/cuda_resources.py $< runtime/src/kernels/cuda_resources.md

check-tensorrt: build/install.stamp  ## What is for TensorRT, compiled and emulated with the headers in TENSORRT_HEADERS
	sh scripts/check-tensorrt.sh "$(TENSORRT_HEADERS)" $(TENSORRT_SOURCES)

gpu-check: build/install.stamp  ## On a machine with a GPU: the CUDA kernels against the CPU's, and timed beside PyTorch
	rm -rf build/gpu
	toolkit=$$(echo $(CURDIR)/.venv/lib/python*/site-packages/nvidia/cu13); \
	if nvcc=$$(PATH=$$PATH:/usr/local/cuda/bin command -v nvcc); then libraries=; else nvcc=$$toolkit/bin/nvcc libraries=-L$$toolkit/lib; fi; \
	cmake -S . -B build/gpu -G Ninja -DMMEDGE_CUDA=ON -DMMEDGE_TESTS=ON -DCMAKE_CUDA_COMPILER=$$nvcc \
	  -DCMAKE_CUDA_FLAGS=$$libraries -DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES) \
	  $(if $(TENSORRT_HEADERS),-DTENSORRT_INCLUDE_DIRS=$(abspath $(TENSORRT_HEADERS))) > build/configure.log
	cmake --build build/gpu --target test_gpu bench_kernels opened_libraries
	LD_LIBRARY_PATH=$(CURDIR)/build/gpu/runtime $(BIN)/pytest -rs tests/gpu
	$(BIN)/python benchmarks/gpu/bench_kernels.py

fuzz: build/bundles.stamp  ## Fuzz the C API, FUZZ_SECONDS (600) for each target, two at a time
	cmake -S . -B build/fuzz -G Ninja -DMMEDGE_TESTS=ON -DMMEDGE_SANITIZE=fuzzer-no-link,address,undefined \
	  -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 > build/configure.log
	cmake --build build/fuzz
	$(BIN)/python tests/runtime/fuzz/make_corpus.py build/bundles build/fuzz-corpus
	$(ENGINE) sh tests/runtime/fuzz/run.sh build/fuzz/tests/runtime/fuzz build/fuzz-corpus $(FUZZ_SECONDS)

build/aarch64/fetched.stamp: build/venv.stamp constraints.txt $(wildcard scripts/debian-packages*.txt scripts/fetch-*.sh) \
                             scripts/own-apt.sh
	sh scripts/install-packages.sh scripts/debian-packages-aarch64.txt
	sh scripts/fetch-aarch64.sh
	@touch $@

test-aarch64: build/bundles.stamp build/aarch64/fetched.stamp  ## The C and C++ tests, cross-built and emulated
	cmake -S . -B build/aarch64/release -G Ninja -DMMEDGE_TESTS=ON -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake \
	  > build/configure.log
	cmake --build build/aarch64/release
	MMEDGE_TEST_BUNDLES=$(CURDIR)/build/bundles \
	MMEDGE_ONNXRUNTIME=$$(echo $(CURDIR)/build/aarch64/onnxruntime/onnxruntime/capi/libonnxruntime.so.*) \
	ctest --test-dir build/aarch64/release --timeout 300 --output-on-failure -j 2

test-python: build/install.stamp build/aarch64/fetched.stamp  ## The Python and end-to-end tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

test-all: test  ## Every check, and every head with every fusion and every encoder (an hour more)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto tests/end_to_end/test_families.py --full-product

wheels: build/install.stamp build/aarch64/fetched.stamp  ## The wheels for x86_64 and aarch64, into dist/
	sh scripts/build-wheel.sh x86_64 dist
	sh scripts/build-wheel.sh aarch64 dist

bench: build/install.stamp  ## What the recipes reach: three tasks, trained where data/ and runs/ lack them (3 hours)
	@# Without its dependencies: webrtcvad wants the pkg_resources that setuptools no longer has; its -wheels do not.
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -c constraints.txt resemblyzer webrtcvad-wheels
	$(BIN)/python benchmarks/bench_tasks.py

bench-runtime: build/install.stamp build/aarch64/fetched.stamp  ## The kernels and the engine beside their peers (10 minutes)
	for name in image audio fusion similarity engine; do \
	  $(BIN)/python benchmarks/bench_$$name.py || exit 1; \
	  [ $$name = engine ] || MMEDGE_MAX_ISA=avx2 $(BIN)/python benchmarks/bench_$$name.py || exit 1; \
	done
	$(BIN)/python benchmarks/bench_tokenizer.py
	$(BIN)/python benchmarks/neon_cost.py

clean:  ## Remove what was built; keeps .venv, data and runs
	rm -rf build dist
