# Set-up, tests and checks. `make help` lists the targets.

PYTHON ?= python3
ARGS ?=
# Test processes: one per processor. JOBS=0 runs the tests in make's own terminal, one after another.
JOBS ?= logical
# Tests start another make, which must not inherit the variables of this one.
unexport ARGS JOBS MAKEFLAGS
# Without bytecode every start of Python would compile everything again, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
TRAIN := build/train
POCKET := build/pocket
BIN := $(VENV)/bin
LLAMA_CPP := build/llama_cpp_python-0.3.36/vendor/llama.cpp
INSTALLED := $(VENV)/.installed

# uv from the PATH, or this version of it, put into $(VENV) by pip.
# (The redirection makes old versions of make call the shell; `command` is a shell built-in.)
UV_VERSION := 0.13.8
UV_FOUND := $(shell command -v uv 2>/dev/null)
UV := $(or $(UV_FOUND),$(BIN)/uv)
MAKE_VENV = $(if $(UV_FOUND),$(UV) venv --quiet --python "$$(command -v "$(PYTHON)")","$(PYTHON)" -m venv)
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)

# Each target adds its packages to the environment; uv.lock pins the versions.
SYNC = $(UV) sync --quiet --frozen --inexact --no-default-groups
WATCH_NEEDS := --extra mlx
TEST_NEEDS := --extra all --group test
LINT_NEEDS := --group lint

.PHONY: help watch test lint format bench pocket truth wheel clean check-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

watch: $(INSTALLED)-watch ## open the dashboard on pocket (ARGS=… for moe-watch)
	@$(BIN)/moe-watch $(ARGS)

test: $(INSTALLED)-test ## run all tests (ARGS=… for pytest)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(INSTALLED)-lint ## check style, types, the direction of imports and the language
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy models/*/*.py
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house.language

format: $(INSTALLED)-lint ## rewrite the style that `lint` checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)-test ## measure the cost of observing, of drawing and of scoring
	$(BIN)/python -m benchmarks.observation_cost $(ARGS)
	$(BIN)/python -m benchmarks.heatmap
	$(BIN)/python -m benchmarks.experts.scoring $(ARGS)

pocket: $(TRAIN)/.installed ## train, export and evaluate pocket again (40 to 60 minutes on two cores)
	mkdir -p $(POCKET)
	set -o pipefail; $(TRAIN)/bin/python -u models/pocket/train.py --output $(POCKET) | tee $(POCKET)/train.log
	$(TRAIN)/bin/python models/pocket/export.py --trained $(POCKET) --output backends/pocket
	$(TRAIN)/bin/python models/pocket/evaluate.py --log $(POCKET)/train.log
	$(TRAIN)/bin/python models/pocket/golden.py

truth: $(TRAIN)/.installed $(INSTALLED)-test $(LLAMA_CPP) ## make the golden files of transformers again
	$(TRAIN)/bin/python models/pocket/golden.py
	$(TRAIN)/bin/python models/truth/make.py
	$(TRAIN)/bin/python models/truth/masked.py
	$(TRAIN)/bin/python models/truth/saliency.py
	$(TRAIN)/bin/python models/truth/make_gguf.py --llama-cpp $(LLAMA_CPP)
	$(BIN)/python -m models.truth.mlx_table
	$(BIN)/python -m models.truth.llama_table
	$(BIN)/python -m models.truth.dense_table
	git diff --stat --exit-code -- tests/pocket tests/truth docs

# llama.cpp's own converter comes inside llama-cpp-python's source archive.
$(LLAMA_CPP):
	"$(PYTHON)" -m pip download --quiet --no-deps --no-binary :all: --dest build/archives llama-cpp-python==0.3.36
	tar -xzf build/archives/llama_cpp_python-0.3.36.tar.gz -C build

wheel: $(UV) ## build the wheel into dist/
	$(UV) build --quiet --wheel --out-dir dist

clean: ## remove everything that these targets make
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

check-python:
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "moe-watch needs Python 3.11 or newer, and $(PYTHON) is %d.%d. " % sys.version_info[:2] + \
	  "Name another one: make … PYTHON=/path/to/python3.13")'

$(BIN)/python: | check-python
	$(MAKE_VENV) $(VENV)

# A .venv that uv made has no pip.
$(BIN)/uv: $(BIN)/python
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(INSTALLED)-watch: NEEDS = $(WATCH_NEEDS)
$(INSTALLED)-test: NEEDS = $(TEST_NEEDS)
$(INSTALLED)-lint: NEEDS = $(LINT_NEEDS)
$(INSTALLED)-watch $(INSTALLED)-test $(INSTALLED)-lint: pyproject.toml uv.lock | $(BIN)/python $(UV)
	$(SYNC) $(NEEDS)
	@touch $@

# PyPI's torch includes gigabytes of CUDA on Linux, so torch comes from its own index, or from TORCH_FROM.
TORCH_FROM ?= --torch-backend cpu
$(TRAIN)/.installed: pyproject.toml uv.lock | $(UV) check-python
	$(UV) venv --quiet --clear --python "$$(command -v "$(PYTHON)")" $(TRAIN)
	$(UV) export --quiet --frozen --no-default-groups --extra train --no-hashes --no-emit-project \
	  --output-file $(TRAIN)/pinned.txt
	$(UV) pip install --quiet --python $(TRAIN)/bin/python $(TORCH_FROM) \
	  --constraints $(TRAIN)/pinned.txt --editable '.[train]'
	@touch $@
