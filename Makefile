# Every target does its own set-up: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
PORT ?= $(or $(RAPID_PORT),8000)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FAST := 'not gpu and not slow and not e2e'

.PHONY: install serve test quick test-fast lint format audit check bench image

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); this happens once and downloads PyTorch, so give it a few minutes."
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

serve: $(INSTALLED)
	@RAPID_PORT=$(PORT) $(BIN)/python -m service

test: $(INSTALLED)
	$(BIN)/python -m pytest

# tests/quick.py says what it leaves out. One process for each core, so each computes with one thread.
quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 -p tests.quick -m $(FAST)

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m $(FAST)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs the network; where nobody can be asked, it says SKIPPED and succeeds.
audit: $(INSTALLED)
	$(BIN)/python -m tests.audit

check: lint audit test

image:
	docker build -f docker/Dockerfile -t rapid-vit .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.tiers
	$(BIN)/python -m benchmarks.memory
