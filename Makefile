PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2
CLIENT_PYTHON ?= python3.11
MODELZOO ?= https://github.com/Cerebras/modelzoo
MODELZOO_COMMIT ?= f1fd1e091dc67917b91ec213ecd63e48fd144477
BIGCODE ?= git+https://github.com/bigcode-project/bigcode-evaluation-harness@f0b81a9d079289881bd42f509811d42fe73e58cf
NATIVE := CMakeLists.txt $(wildcard src/openwafer/fabric/native/* src/openwafer/serve/kernels/native/*)

.PHONY: train test client-test lint clean

train: $(STAMP)
	$(BIN)/wafer train recipes/gpt.py

test: $(STAMP) lint
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal

# Unmodified programs of the vendor's training client and of its ModelZoo, in an environment of their own (Python 3.11, 6 GB).
client-test: $(STAMP) build/modelzoo/setup.py
	test -x build/client/bin/python || $(CLIENT_PYTHON) -m venv build/client
	build/client/bin/pip install --quiet -r tests/compat/client/requirements.txt
	build/client/bin/pip install --quiet --no-deps $(BIGCODE)
	build/client/bin/pip install --quiet --no-deps --use-pep517 -e build/modelzoo
	OPENWAFER_TEST_CLIENT=$(CURDIR)/build/client/bin/python $(BIN)/pytest tests/compat/client

# Without the lists of web pages that one of its data sets was made from.
build/modelzoo/setup.py:
	rm -rf build/modelzoo
	git clone --quiet --filter=blob:none --no-checkout $(MODELZOO) build/modelzoo
	git -C build/modelzoo sparse-checkout set --no-cone '/*' '!/src/cerebras/modelzoo/data_preparation/nlp/owt'
	git -C build/modelzoo checkout --quiet $(MODELZOO_COMMIT)

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
