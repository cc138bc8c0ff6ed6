# Every target sets up what it needs in .venv and then runs; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions the tests ran with; CONSTRAINTS= installs the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PINNED := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# pyproject.toml alone knows the bounds of torch.
TORCH := $(shell sed -n 's/^ *"\(torch>=[^"]*\)".*/\1/p' pyproject.toml)
OUT ?= quickstart
# Passed to each benchmark: the folder of offline data that some of them need.
DATA ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast test-all lint types check bench docs pictures update-constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

quickstart: $(VENV)/.installed ## train, evaluate and explain a tiny model on rendered images, into ./quickstart (or OUT=FOLDER)
	$(BIN)/lingshu quickstart --out $(OUT)

test: $(VENV)/.installed-dev ## run the tests: CPU only, no network, a few minutes
	$(BIN)/python -m pytest -n auto --dist loadfile

test-fast: $(VENV)/.installed-dev ## run the unit tests, in under a minute
	$(BIN)/python -m pytest -n auto --dist loadfile -m "fast and not slow and not browser and not peers and not gpu and not network"

test-all: $(VENV)/.installed-dev ## run the slow and browser tests too
	$(BIN)/python -m pytest -m "not peers and not gpu and not network"

lint: $(VENV)/.installed-dev ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## pyright
	$(BIN)/pyright

check: lint types test ## lint, types and tests: must pass before review

bench: $(VENV)/.installed-dev ## run every benchmark of bench/, one after another (DATA=FOLDER for those on real data)
	@for file in $(sort $(wildcard bench/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file $(DATA) || exit 1; done

docs: $(VENV)/.installed-docs ## build the documentation into ./site
	$(BIN)/zensical build --clean

pictures: $(VENV)/.installed-dev ## take the pictures of README and docs again, with a system Chromium
	PYTHONPATH=. $(BIN)/python docs/pictures.py

update-constraints: ## install the newest versions allowed, run the tests with warnings shown, write constraints.txt
	rm -rf $(VENV)
	$(MAKE) $(VENV)/.installed-dev CONSTRAINTS=
	$(BIN)/python -m pytest -n auto --dist loadfile -W default
	$(BIN)/python -m pip list --format=freeze --exclude-editable --disable-pip-version-check \
		| grep -vE '^(lingshu|pip|setuptools|wheel)==' | sed 's/+.*//' > constraints.txt

clean: ## remove what these targets made, .venv included
	rm -rf $(VENV) site dist build quickstart .pytest_cache .ruff_cache .cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that a CPU wheel that pip is configured to find is taken before
# anything asks for another build.
$(VENV)/.torch: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) $(PINNED) "$(TORCH)"
	@touch $@

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) $(VENV)/.torch
	$(PIP) $(PINNED) -e ".[torch]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) $(VENV)/.torch
	$(PIP) $(PINNED) -e ".[torch,dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: | $(BIN)/python
	$(PIP) "zensical>=0.0.10,<1"
	@touch $@
