# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
CHECKED := --jaxtyping-packages=pixelwise,beartype.beartype

.PHONY: demo test test-slow shapes check coverage bench docs clean

demo: .venv/run
	$(BIN)/pixelwise demo

test: .venv/dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not shapes"
	$(BIN)/python -m pytest -n 2 -m "not slow and not compile" $(CHECKED) tests/contract tests/unit tests/losses tests/metrics

test-slow: .venv/dev
	$(BIN)/python -m pytest -m "slow and not shapes"

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -q -m "not slow and not shapes" tests/house tests/unit tests/losses tests/metrics

coverage: .venv/dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not shapes" --cov --cov-report=term-missing:skip-covered

bench: .venv/dev
	$(BIN)/python bench/import_time.py
	$(BIN)/python bench/train_step.py

docs: .venv/dev
	$(BIN)/python docs/make_models_table.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pixelwise and what it needs into .venv (some GB, once)"
	$(PIP) --editable .
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pixelwise, what it needs and the test tools into .venv (some GB, once)"
	$(PIP) --editable ".[dev]"
	@touch $@ .venv/run
