# Everything runs from a fresh clone: the first target that needs it makes .venv (Python 3.11 or later).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUNS   ?= runs
SEED   ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-slow lint check bench report clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## make .venv with everything in it

run: $(STAMP) ## DSA and uniform on the digits at half the MACs: a table, records, a picture (minutes)
	$(BIN)/dsa run --preset quick --method dsa --method uniform --budget macs=0.5 --seed $(SEED) --out $(RUNS)

test: lint test-unit test-slow ## everything that must pass

test-unit: $(STAMP) ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not gpu"

test-slow: $(STAMP) ## the tests that take longer than ten seconds each
	$(BIN)/python -m pytest -n 2 --dist load -m "slow and not gpu"

lint: $(STAMP) ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: $(STAMP) ## masked = pruned on our networks and all of torchvision's (long)
	$(BIN)/dsa check --zoo

bench: $(STAMP) ## timings; nothing here passes or fails
	$(BIN)/python -m pytest tests/benchmarks -q -s

report: $(STAMP) ## the table of all runs in RUNS
	$(BIN)/dsa report $(RUNS)

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks build *.egg-info
