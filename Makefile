# Everything a contributor runs. Each target sets up what it needs, from nothing; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
BIN := $(VENV)/bin
SOURCES := $(shell find rediffinet export engines cli ext -type f -not -name '*.so' -not -name '*.c' -not -name '*.pyc')
TORCH := $(shell grep '^torch==' constraints.txt)

# Threads: the tests run in parallel processes, one thread each. Bytecode is kept whatever the environment says: the
# tests start a hundred programs, each of which would compile the package first. Memory: what is freed is kept for the
# next large array (glibc), instead of asking the system for zeroed pages each time: a twelfth of the time.
MALLOC := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648 MALLOC_TOP_PAD_=67108864
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 PYTHONDONTWRITEBYTECODE= $(MALLOC) \
  $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-lowest lint format types bench sdist page clean python-is-new-enough

help:
	@echo "make setup      development install with every CPU extra, in $(VENV)"
	@echo "make demo       runtime install without torch, in $(DEMO); segments a phantom case into demo/out"
	@echo "make test       lint, types and the tests that are not slow"
	@echo "make test-all   lint, types and all tests"
	@echo "make test-lowest  the runtime with the lowest versions that pyproject.toml allows, in .venv-lowest"
	@echo "make lint | format | types | bench | sdist | page | clean"

python-is-new-enough:
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON) here; name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: rediffinet needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12 ..." >&2; exit 1; }

# --- development ----------------------------------------------------------------------------------------------------

setup: $(VENV)/.compiled

# torch comes first and pinned: asked for by another package it would bring the CUDA libraries along. tensorrt-rtx
# (95 MB) builds plans without a GPU; where it does not exist, the tests that need it are skipped.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt | python-is-new-enough
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt '$(TORCH)' setuptools cython numpy
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[cpu,train,serve,ray,dev,prepare,dicom]'
	@$(BIN)/python -m pip install -q -c constraints.txt tensorrt-rtx || echo "make: no tensorrt-rtx for this machine (it is for Linux and Windows on x86-64); its tests are skipped" >&2
	@touch $@

$(VENV)/.compiled: $(VENV)/.installed $(wildcard ext/*.pyx ext/*.pxd)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The top-level folders are subpackages only once installed, so mypy reads them through a folder of links that looks
# like the installed package. It checks all five.
types: setup
	@rm -rf build/types && mkdir -p build/types/rediffinet
	@ln -s $(foreach entry,$(wildcard rediffinet/*) export engines cli ext,'$(CURDIR)/$(entry)') build/types/rediffinet/
	cd build/types && '$(CURDIR)/$(BIN)/mypy' --config-file '$(CURDIR)/pyproject.toml' --cache-dir '$(CURDIR)/.mypy_cache' -p rediffinet

test: lint types
	$(PYTEST)

test-all: lint types
	$(PYTEST) -m ''

bench: setup
	@for script in benchmarks/*.py; do \
	  test -e "$$script" || { echo "no benchmarks yet"; exit 0; }; \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

# --- what a user gets -----------------------------------------------------------------------------------------------

# A regular install of what the README tells users to install: no torch, nothing editable.
$(DEMO)/.installed: pyproject.toml setup.py constraints.txt $(SOURCES) | python-is-new-enough
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install -q --upgrade pip -c constraints.txt
	rm -rf build/lib* build/bdist*
	$(DEMO)/bin/python -m pip install -q -c constraints.txt '.[cpu]'
	@touch $@

demo: $(DEMO)/.installed
	rm -rf demo/cases
	$(DEMO)/bin/rediff phantom demo/cases --cases 1 --seed 1
	$(DEMO)/bin/rediff segment demo/cases -o demo/out --overwrite
	@echo
	@echo "The results are in demo/out:"
	@find demo/out -type f | sort

# The page of the viewer, from its sources (Node.js 20 or newer, npm). The result is committed: nobody else needs Node.
page:
	cd rediffinet/clinic/viewer/page && npm ci --no-audit --no-fund && npm run build

# The lowest versions that pyproject.toml allows, of what the runtime imports itself: installs, makes a case, segments it
# with both CPU engines, scores it. lowest.txt pins them.
test-lowest: python-is-new-enough
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install -q -c lowest.txt '.[cpu]'
	rm -rf build/lowest && mkdir -p build/lowest
	cd build/lowest && for command in \
	  "phantom cases --cases 1 --seed 1" \
	  "segment cases -o onnx --engine onnxruntime --steps 1 --samples 1" \
	  "segment cases -o openvino --engine openvino --steps 1 --samples 1" \
	  "evaluate onnx cases --out scores.csv" \
	  "info"; do ../../.venv-lowest/bin/rediff $$command || exit 1; done

sdist: setup
	$(BIN)/python setup.py -q sdist

clean:
	rm -rf $(VENV) $(DEMO) .venv-lowest build dist demo/cases demo/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f ext/*.c ext/*.so ext/*.html
