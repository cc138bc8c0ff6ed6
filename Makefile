# Every target sets up what it needs in .venv and then runs; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The bounds of torch stand in pyproject.toml alone.
TORCH := $(shell sed -n 's/^ *"\(torch>=[^"]*\)".*/\1/p' pyproject.toml)
OUT ?= quickstart
# Handed to each measurement: the folder of offline benchmark data that some of them need.
DATA ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all lint types check bench docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

quickstart: $(VENV)/.installed ## train, evaluate and explain a tiny model on drawn images, into ./quickstart (or OUT=FOLDER)
	$(BIN)/lingshu quickstart --out $(OUT)

test: $(VENV)/.installed-dev ## run the tests: CPU only, no network
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-dev ## run the slow and browser tests too
	$(BIN)/python -m pytest -m "not peers and not gpu and not network"

lint: $(VENV)/.installed-dev ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## pyright
	$(BIN)/pyright

check: lint types test ## lint, types and tests: run this before a change is shown

bench: $(VENV)/.installed-dev ## run every measurement of bench/, one after another (DATA=FOLDER for those on real data)
	@for file in $(sort $(wildcard bench/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file $(DATA) || exit 1; done

docs: $(VENV)/.installed-docs ## build the documentation into ./site
	$(BIN)/zensical build --clean

clean: ## remove what these targets made, .venv included
	rm -rf $(VENV) site dist build quickstart .pytest_cache .ruff_cache .cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that a CPU wheel that pip is configured to find is taken before anything asks for another build.
$(VENV)/.torch: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[torch]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[torch,dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "zensical>=0.0.10,<1"
	@touch $@
