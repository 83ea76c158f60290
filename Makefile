# A python3.11 on the path may be a version manager's shim that refuses to run: ask, don't look.
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast test-ci test-slow test-runtime sanitize fuzz docs docs-serve wheel lint types format lock clean

# Minutes are of two cores of a Zen 4 with nothing else to do, with all installed.
help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

quickstart: $(INSTALLED)  ## Train a small sparse GAN: six minutes, and four to install at first
	$(RUN) -m stugan_tf.train --gin_file=gin/quickstart.gin --workdir=runs/quickstart

# Python keeps what it compiled, and pytest what it made of assertions: ten seconds for each process.
unexport PYTHONDONTWRITEBYTECODE
# Each file is run by one process, which shares what its tests train; TESTS names files or one test.
TESTS ?=
PYTEST = $(RUN) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## The tests of every day: eight minutes
	$(PYTEST) $(TESTS)

test-fast: $(INSTALLED)  ## Those of them that train no GAN and run no command: two minutes
	$(PYTEST) -m "not slow and not ci and not whole" $(TESTS)

test-ci: $(INSTALLED)  ## The longer tests that every change must pass, too: 25 minutes
	$(PYTEST) -m "ci and not slow" $(TESTS)

test-slow: $(INSTALLED)  ## What no other run has, and properties by more examples: hours
	TEST_BUDGET=0 $(PYTEST) -m "slow or hypothesis" --hypothesis-profile=whole $(TESTS)

test-runtime: $(INSTALLED)  ## The tests of runtime/, with the library built first: two minutes
	$(RUN) -m pytest runtime/tests

# Of another version, Zig would make other bytes. Its first build takes minutes.
.PHONY: wasm
wasm: $(INSTALLED)  ## Build the WebAssembly module of pages again, after a change of runtime/
	$(RUN) -m pip install --quiet ziglang==0.17.1
	$(RUN) runtime/build_wasm.py

# With -O3 it would take minutes to build. The three checks left out, for null, turn constants of
# TensorFlow's headers into what GCC says is none; AddressSanitizer sees where null is read. Leaks
# are not looked for: at exit Python and TensorFlow leave much to the operating system. The
# libraries come before Python, which was built without them.
sanitize: $(INSTALLED)  ## The kernels' tests under AddressSanitizer and UBSan: three minutes
	CXX=g++ STUGAN_TF_KERNEL_FLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
		-fno-sanitize=null,nonnull-attribute,returns-nonnull-attribute -fno-sanitize-recover=all" \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	TEST_BUDGET=0 $(RUN) -m pytest --exitfirst --capture=sys --hypothesis-profile=whole \
		tests/kernels/test_*convolution.py

# Half of the time for files that may be hostile, half for models that must be right. What is found
# stays in runtime/build-fuzz, as do new inputs, from which the next call goes on.
SECONDS ?= 60
FUZZ := runtime/build-fuzz
FUZZING = -max_total_time=$$(($(SECONDS) / 2)) -timeout=100 -rss_limit_mb=3000 -print_final_stats=1
fuzz: $(INSTALLED)  ## Hostile files and random models for runtime/, SECONDS=60; needs clang
	$(RUN) -m cmake -S runtime -B $(FUZZ) -DSTUGAN_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	$(RUN) -m cmake --build $(FUZZ) --parallel 2
	mkdir -p $(FUZZ)/files $(FUZZ)/models
	cd $(FUZZ) && ./fuzz_files files ../fuzz/files -max_len=65536 $(FUZZING)
	cd $(FUZZ) && ./fuzz_models models ../fuzz/models -max_len=600 -len_control=0 $(FUZZING)

lint: $(INSTALLED)  ## Check style and formatting
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: $(INSTALLED)  ## Check the type hints
	$(RUN) -m mypy

format: $(INSTALLED)  ## Repair style and formatting
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

# Strictly: dead links and what has no docstring end the build. The notice is about MkDocs 2.
export NO_MKDOCS_2_WARNING := 1
docs: $(INSTALLED)  ## Build the pages into build/docs: a minute; open build/docs/index.html
	$(RUN) -m mkdocs build

docs-serve: $(INSTALLED)  ## Show the pages on http://127.0.0.1:8000, and each change of them
	$(RUN) -m mkdocs serve

# What earlier builds left in build/lib would be in this one. Elsewhere, or with another TensorFlow,
# the operation is compiled when it is first used, as from a wheel of `pip wheel .`.
wheel: $(INSTALLED)  ## Build dist/*.whl for Linux on x86-64, with the operation compiled
	rm -rf build/lib build/bdist.* build/prebuilt
	$(RUN) -m stugan_tf.kernels.library build/prebuilt
	STUGAN_TF_PREBUILT=build/prebuilt $(RUN) -m pip wheel --no-deps --wheel-dir=dist .

# Not from an installed environment: one that no longer resolves is what needs a new lock.
lock: | $(RUN)  ## Choose the newest allowed versions and write constraints.txt
	$(RUN) -m pip install --quiet uv
	$(RUN) -m uv pip compile --quiet --universal --python-version=3.10 --extra=dev --upgrade \
		--no-annotate --custom-compile-command="make lock" --output-file=constraints.txt setup.py

clean:  ## Remove the environment and all that can be made again; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): setup.cfg constraints.txt | $(RUN)
	$(RUN) -m pip install --constraint=constraints.txt --editable=.[dev]
	touch $@
