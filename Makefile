# Every target does its own set-up: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
PORT ?= $(or $(RAPID_PORT),8000)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install serve test quick test-fast lint format check bench image

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

quick: lint
	$(BIN)/python -m pytest -q -n 2 -p tests.quick -m 'not gpu and not slow and not e2e'

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not gpu and not slow and not e2e'

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

image:
	docker build -f docker/Dockerfile -t rapid-vit .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.tiers
	$(BIN)/python -m benchmarks.memory
