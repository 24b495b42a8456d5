# Every target does its own set-up: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
PORT ?= $(or $(RAPID_PORT),8000)
VENV := .venv
BIN := $(VENV)/bin
SERVING := $(VENV)/.serving
INSTALLED := $(VENV)/.installed
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --disable-pip-version-check
# Where torch and torchvision come from; empty: from where everything comes from.
TORCH_INDEX_URL ?=
FAST := 'not gpu and not slow and not e2e'

.PHONY: install serve test quick test-fast lint format audit check bench image

install: $(INSTALLED)

# What serving needs, and no more; `install` and the targets that need its tools add those of `dev`.
$(SERVING): pyproject.toml constraints.txt
	@echo "Installing what serving needs into $(VENV). This happens once; most of it is PyTorch."
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX_URL),)
	$(PIP) --no-deps --index-url '$(TORCH_INDEX_URL)' torch torchvision
endif
	$(PIP) --editable .
	@touch $@

$(INSTALLED): $(SERVING)
	@echo "Installing the tools of development into $(VENV). This happens once, and takes some minutes."
	$(PIP) --editable '.[dev]'
	@touch $@

serve: $(SERVING)
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
