# make quickstart: the whole system on this machine, from nothing to a report.  make test: every test.
PYTHON ?= python3
BIN := .venv/bin
# PyTorch's CPU wheels, where there is no NVIDIA GPU and pip has no wheel folder of its own.
CPU_INDEX := https://download.pytorch.org/whl/cpu
# Where compiled modules are not kept (many container images say so), every process compiles PyTorch's and Ray's anew: seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-slow test-gpu test-browser test-conformance soak check format bench clean
# What only runs when it is asked for.
APART := not gpu and not peer and not browser and not soak and not conformance

quickstart: .venv/core.stamp
	$(BIN)/h1r quickstart

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and $(APART)"

test-slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m "slow and $(APART)"

test-gpu:
	PYTHONPATH=src python3 -m pytest -m gpu tests/ops tests/engine/test_cuda.py

# Needs Debian's chromium and chromium-driver; without them every test is skipped, and says so.
test-browser: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser -rs tests/browser

# Public clients, unmodified, against our server; they are installed beside it.
test-conformance: .venv/conformance.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m conformance tests/serve/test_conformance.py

# make soak SOAK_SECONDS=600: ten minutes.
SOAK_SECONDS ?= 120
soak: .venv/conformance.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m soak tests/serve/test_soak.py --soak-seconds $(SOAK_SECONDS)

check: .venv/dev.stamp
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py
	$(BIN)/python bench/size.py

format: .venv/dev.stamp
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "h1r needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

define install
	@if ! command -v nvidia-smi >/dev/null 2>&1 && [ -z "$$PIP_FIND_LINKS" ] && \
	  ! $(BIN)/python -m pip config get global.find-links >/dev/null 2>&1; then \
	  export PIP_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL $(CPU_INDEX)"; fi; \
	$(BIN)/python -m pip install --quiet --no-compile -e $(1)
	@touch $(2)
endef

.venv/core.stamp: .venv/bin/python pyproject.toml
	$(call install,'.',$@)

.venv/dev.stamp: .venv/bin/python pyproject.toml
	$(call install,'.[dev]',$@)

.venv/conformance.stamp: .venv/bin/python pyproject.toml
	$(call install,'.[conformance]',$@)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
