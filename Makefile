# make quickstart | test | lint | bench     Each makes .venv first if it is absent.
#
# On Linux without a GPU, PyTorch's CPU build saves gigabytes; see README for TORCH_INDEX.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-slow lint format bench clean

quickstart: .venv/installed
	$(BIN)/gpt2lab quickstart $(ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest $(ARGS)

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Peers are measured in the same runs; train_step and quality want nanoGPT's checkout in ../nanoGPT.
bench: .venv/installed-dev
	$(BIN)/python benchmarks/cpu_decode.py --work ../models
	$(BIN)/python benchmarks/zero_shot.py --work ../models
	$(BIN)/python benchmarks/train_step.py $(ARGS)
	$(BIN)/python benchmarks/quality.py $(ARGS)
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/tokenise.py
	$(BIN)/python benchmarks/corpus_scale.py

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
