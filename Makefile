# make demo    trains and tests a small network on this machine
# make test    lint, types, documentation and all tests
# Both set up all they need, in .venv; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
# for example: make unit ARGS="-k plan -x"
ARGS ?=
# for example: make bench ROWS="--quick import cold_local"
ROWS ?=

# for example: make soak SEEDS=100-399
SEEDS ?= 1-50
JOBS ?= 2

BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTEST = $(BIN)/python -m pytest
LOWEST := .venv-lowest

.PHONY: help demo test heavy test-all lint format types docs unit integration lab soak reliability test-lowest bench wheel system clean
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/ready-demo ## trains on two agents of two workers, tests what came back
	$(BIN)/python examples/train_then_test.py

test: system lint types docs ## lint, types, documentation and all tests; names what had to be left out
	$(PYTEST) -n $(WORKERS) --dist loadgroup $(ARGS)

heavy: $(VENV)/ready-examples ## the examples that need the packages of frameworks
	$(PYTEST) tests/examples -m heavy -n $(WORKERS) --dist loadgroup $(ARGS)

test-all: heavy test ## both: what CI runs

lint: $(VENV)/ready-dev ## style, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/ready-dev ## puts right what can be put right
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

types: $(VENV)/ready-dev ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/ready-docs ## the documentation, in docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env docs docs/_build/html

unit: $(VENV)/ready-dev ## no torch, no sockets: seconds
	$(PYTEST) tests/unit $(ARGS)

integration: $(VENV)/ready-dev ## real processes on localhost
	$(PYTEST) tests/integration tests/examples tests/peers -n $(WORKERS) --dist loadgroup $(ARGS)

lab: system $(VENV)/ready-dev ## hosts made of namespaces
	$(PYTEST) tests/lab -n $(WORKERS) --dist loadgroup $(ARGS)

soak: system $(VENV)/ready-dev ## seeded random launches with faults; SEEDS=100-399 or SEEDS=17, JOBS=2
	$(BIN)/python -m tests.lab.soak $(SEEDS) --jobs $(JOBS)

reliability: system $(VENV)/ready-dev ## measures faults, and writes the times into docs/reliability.md
	$(BIN)/python tools/reliability.py

test-lowest: $(LOWEST)/ready ## unit and integration tests with the oldest dependencies that are allowed
	$(LOWEST)/bin/python -m pytest tests/unit tests/integration -n $(WORKERS) --dist loadgroup $(ARGS)

bench: system $(VENV)/ready-bench ## measures beside the peers; all rows, or ROWS="cold_local import"
	$(BIN)/python -m benchmarks $(ROWS)

wheel: $(VENV)/ready-dev ## dist/*.whl
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .

clean: ## removes the environments and whatever tools left behind
	rm -rf $(VENV) $(LOWEST) dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis trx_logs
	find agent benchmarks docs examples tests tools trx -name __pycache__ -prune -exec rm -rf {} +

# ---- set-up: done once, and again when pyproject.toml changes -------------------------------------------------------

system:
	@tools/setup.sh

# torch first and pinned: whatever is installed afterwards finds its needs met, and pulls no other build.
$(VENV)/ready-torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) '$(TORCH)'
	@touch $@

$(VENV)/ready-demo: pyproject.toml $(VENV)/ready-torch
	$(PIP) '$(TORCH)' --editable '.[demo]'
	@touch $@

$(VENV)/ready-dev: pyproject.toml $(VENV)/ready-torch
	$(PIP) '$(TORCH)' --editable '.[demo,dev]'
	@touch $@ $(VENV)/ready-demo

$(VENV)/ready-docs: pyproject.toml $(VENV)/ready-dev
	$(PIP) '$(TORCH)' --editable '.[demo,dev,docs]'
	@touch $@

$(VENV)/ready-examples: pyproject.toml $(VENV)/ready-dev
	$(PIP) '$(TORCH)' --editable '.[demo,dev,examples]'
	@touch $@

$(VENV)/ready-bench: pyproject.toml $(VENV)/ready-dev
	$(PIP) '$(TORCH)' --editable '.[demo,dev,bench]'
	@touch $@

$(LOWEST)/ready: pyproject.toml tools/lowest_bounds.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tools/lowest_bounds.py >$(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet '$(TORCH)'
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet '$(TORCH)' \
		--constraint $(LOWEST)/constraints.txt --editable '.[demo,dev]'
	@touch $@
