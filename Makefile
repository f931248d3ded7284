# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two processes with one thread each: threads of several processes that wait for each other take many times longer.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# The program as its users run it: fresh processes with the machine's own threads.
PRODUCT := $(BIN)/python -m pytest tests/product -n 2 --dist loadfile
# Under the checker of shapes: the default run takes the tests that are about shapes, the slow run all of these.
CHECKED := --jaxtyping-packages=pixelwise,beartype.beartype tests/contract tests/unit tests/losses tests/metrics
# Of scripts, which no test imports, mypy looks for names and arguments that do not exist.
SCRIPTS := bench docs recipes --no-warn-unused-ignores $(addprefix --disable-error-code=,arg-type assignment \
	dict-item import-untyped index misc no-untyped-def operator type-arg union-attr)
SHAPES := size or shape or axes or smallest

.PHONY: demo release-check test test-product test-slow check coverage bench bench-soak docs clean

demo: .venv/run
	$(BIN)/pixelwise demo

test: .venv/dev
	$(PYTEST) -n 2 -m "not slow and not shapes" --ignore=tests/product
	$(PYTEST) -n 2 -m "not slow and not compile" -k "$(SHAPES)" $(CHECKED)
	$(PRODUCT) -m "not slow"

test-product: .venv/dev
	$(PRODUCT) -m "not slow"

test-slow: .venv/dev
	$(PYTEST) -n 2 -m "slow and not shapes" --ignore=tests/product
	$(PYTEST) -n 2 -m "not slow and not compile" $(CHECKED)
	$(PRODUCT) -m slow

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy $(SCRIPTS)
	$(PYTEST) -n 2 -q -m "not slow and not shapes" tests/house tests/unit tests/losses tests/metrics

coverage: .venv/dev
	$(PYTEST) -n 2 -m "not slow and not shapes" --ignore=tests/product --cov --cov-report=term-missing:skip-covered

bench: .venv/dev
	$(BIN)/python bench/import_time.py
	$(BIN)/python bench/train_step.py
	$(BIN)/python bench/losses.py
	$(BIN)/python bench/metrics.py
	$(BIN)/python bench/classical.py
	$(BIN)/python bench/instance.py
	$(BIN)/python bench/instance_decode.py
	$(BIN)/python bench/transformer_networks.py
	$(BIN)/python bench/patch_classifier.py
	$(BIN)/python bench/models.py

# Half an hour of requests to a server of this machine.
bench-soak: .venv/dev
	$(BIN)/python bench/soak.py --minutes 30

docs: .venv/dev
	$(BIN)/python docs/measure_models.py
	$(BIN)/python docs/make_models_pictures.py
	$(BIN)/python docs/make_models.py
	$(BIN)/python docs/make_auto_page.py
	$(BIN)/python docs/make_classical_gallery.py

# The wheel as a user gets it: built, installed into a clean environment, and tried.
release-check:
	rm -rf build/release && $(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build
	build/release/bin/python -m build --wheel --outdir build/release/dist .
	build/release/bin/python -m pip install --quiet --constraint constraints.txt build/release/dist/*.whl
	cd build/release && bin/pixelwise demo --epochs 10 --out demo

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

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
