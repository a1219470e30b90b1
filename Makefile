# Everything runs from a fresh clone: the first target that needs it makes .venv (Python 3.11 or later).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUNS   ?= runs
SEED   ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup run lab explore notebooks test test-code test-unit test-slow test-notebooks browser lint check \
        docs bench report clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## make .venv with everything in it

run: $(STAMP) ## DSA and uniform on the digits at half the MACs: a table, records, a plot (minutes)
	$(BIN)/dsa run --preset quick --method dsa --method uniform --budget macs=0.5 --seed $(SEED) --out $(RUNS)

lab: $(STAMP) ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks

explore: $(STAMP) ## serve the budget explorer; the address with its token is printed
	$(BIN)/voila notebooks/apps/explorer.ipynb --no-browser --port=8866 --Voila.ip=127.0.0.1 --Voila.auto_token=True \
	    --Voila.kernel_websocket_connection_class=course.prompt_socket.PromptConnection

notebooks: $(STAMP) ## execute all notebooks and save their outputs
	$(BIN)/python -m course.notebook execute notebooks/*.ipynb notebooks/solutions/*.ipynb \
	    notebooks/appendix/*.ipynb

test: $(STAMP) ## everything that must pass
	$(MAKE) --jobs 2 lint browser
	$(MAKE) test-code test-notebooks

# two workers, one thread each: threads of two processes on two cores would only spin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
GROUPS := --dist loadgroup --no-loadscope-reorder

test-code: $(STAMP) browser ## the tests of the code, the slow ones first
	$(PYTEST) $(GROUPS) -m "not gpu"

test-unit: $(STAMP) ## of these the fast ones
	$(PYTEST) $(GROUPS) -m "not slow and not gpu" --ignore tests/browser

test-slow: $(STAMP) browser ## of these what takes more than ten seconds each, or a browser
	$(PYTEST) $(GROUPS) -m "slow and not gpu"

NBVAL := $(PYTEST) --nbval-current-env --nbval-cell-timeout=600 --dist loadscope
STRICT := notebooks/02_channel_groups.ipynb notebooks/03_differentiable_masks.ipynb \
          notebooks/04_budgets_and_admm.ipynb

# the solutions run in one process, in tests/notebooks/test_lint.py; 13 runs as a batch, in
# tests/notebooks/test_batch_smoke.py
BATCH  := notebooks/13_full_run.ipynb
test-notebooks: $(STAMP) ## every notebook runs; three give the saved outputs again
	$(NBVAL) --nbval $(STRICT)
	$(NBVAL) --nbval-lax $(filter-out $(STRICT) $(BATCH),$(wildcard notebooks/*.ipynb notebooks/appendix/*.ipynb))

browser: ## a browser for the tests in one; they are skipped without it
	bash tests/browser/install.sh

lint: $(STAMP) ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: $(STAMP) ## thousands of random cases; masked = pruned on all of torchvision's networks (hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m "hypothesis or fuzz" --hypothesis-profile=check
	$(BIN)/dsa check --zoo

# pdoc sees what is loaded: names of dsa_core are loaded when they are first used
DOCS := import pathlib, dsa_core, pdoc; \
        vars(dsa_core).update({name: getattr(dsa_core, name) for name in dsa_core.__all__}); \
        pdoc.render.configure(docformat="google"); \
        pdoc.pdoc("dsa_core", "dsa_core.lab", output_directory=pathlib.Path("build/docs"))

docs: $(STAMP) ## the API reference from the docstrings, in build/docs
	$(BIN)/python -c '$(DOCS)'

bench: $(STAMP) ## timings; nothing here passes or fails
	$(BIN)/dsa bench --json
	$(BIN)/python -m pytest tests/benchmarks -q -s

report: $(STAMP) ## the table of all runs in RUNS
	$(BIN)/dsa report $(RUNS)

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
