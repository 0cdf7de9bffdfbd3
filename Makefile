# Every target sets up .venv by itself: Python 3.11 or newer with pip is all that is needed.
# `make help` lists the targets; `make PYTHON=/path/to/python` chooses the interpreter.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# The first interpreter that runs and is new enough: a name on the PATH may be a shim that points nowhere.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
  if $$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

# Two workers with one thread each are faster than two that share the cores.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint format types layers docs doctest smoke clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## create .venv and install the package with everything that the other targets need

# torch first and pinned, so that no other package's requirement decides which build is taken.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "Python 3.11 or newer is needed, and '$(or $(PYTHON),python3)' is not. Set it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	@touch $@

demo: $(STAMP)  ## train on the world's airports, print likelihoods, draw the map
	$(BIN)/python experiments/airports/run.py

test: $(STAMP)  ## the test suite without the slow tests
	$(PYTEST) -n 2 -m 'not slow' $(PYTEST_ARGS)

# Exit status 5 means that no test is marked slow.
test-slow: $(STAMP)  ## the slow tests only
	$(PYTEST) -n 2 -m slow $(PYTEST_ARGS) || test $$? -eq 5

test-all: test test-slow  ## both

lint: $(STAMP)  ## ruff: rules and format, without changing a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## ruff: mend what it can and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## pyright
	$(BIN)/pyright

layers: $(STAMP)  ## import-linter: imports only go down
	$(BIN)/lint-imports

doctest: $(STAMP)  ## the examples in the docstrings
	$(PYTEST) -n 2 --doctest-modules manifold_diffusion

docs: $(STAMP)  ## build the documentation into docs/_build, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

# Each experiment and benchmark on a few points and steps, so that none of them rots.
smoke: $(STAMP)  ## run every experiment with --smoke
	@set -e; for script in $$(ls experiments/*/run.py experiments/transport/dimension.py experiments/bench/*.py | sort -u); do \
	  echo "--- $$script --smoke"; OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python $$script --smoke; done

clean:  ## remove .venv, builds and caches
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
