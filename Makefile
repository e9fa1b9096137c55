# make demo: boots the shipped sample.  make test: lint, types and tests.  Both set themselves up in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := cloud cvmboot images loader machine sev uefi
JOBS ?= 2

.PHONY: demo test test-all lint types bench lock clean

demo: $(VENV)/.ready
	@$(BIN)/cvmboot demo

test: lint types
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: lint types
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# Bytecode is written at once: without it the first run of everything takes four times as long to import.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cvmboot needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q $(PACKAGES)
	@touch $@

# Pins every dependency with its hashes; no address of a registry gets into the file.
lock: $(VENV)/.ready
	$(BIN)/pip-compile --quiet --extra dev --extra cluster --generate-hashes --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
