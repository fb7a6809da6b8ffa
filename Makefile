PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2
CLIENT_PYTHON ?= python3.11
NATIVE := CMakeLists.txt $(wildcard src/openwafer/fabric/native/* src/openwafer/serve/kernels/native/*)

.PHONY: train test client-test lint clean

train: $(STAMP)
	$(BIN)/wafer train recipes/gpt.py

test: $(STAMP) lint
	$(BIN)/pytest -n $(TEST_WORKERS)

# Unmodified programs of the vendor's training client, in an environment of its own (Python 3.11, 5 GB).
client-test: $(STAMP)
	test -x build/client/bin/python || $(CLIENT_PYTHON) -m venv build/client
	build/client/bin/pip install --quiet "setuptools<81" cerebras_pytorch==2.10.0
	OPENWAFER_TEST_CLIENT=$(CURDIR)/build/client/bin/python $(BIN)/pytest tests/compat/client

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps -c constraints.txt cerebras_appliance
	touch $@

clean:
	rm -rf $(VENV) build dist
