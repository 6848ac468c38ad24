# Everything from nothing: each target first sets up .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint format types clean

demo: $(READY)  ## train the built-in recipe, judge it, write a report
	@if [ -f runs/stacked-digits/recipe.yaml ] && [ ! -f runs/stacked-digits/evaluation.json ]; then \
		$(BIN)/poise train stacked-digits --resume; \
	else \
		$(BIN)/poise train stacked-digits --overwrite; \
	fi
	@echo "open $(CURDIR)/runs/stacked-digits/report.html"

test: $(READY) lint types  ## lint, type-check and run every test but the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY) lint types  ## every test
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The marker is newer than what is installed and built: a second call does neither.
$(READY): pyproject.toml $(wildcard poise/kernels/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "poise needs Python >= 3.11; set PYTHON=python3.11 or newer"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info poise/kernels/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
