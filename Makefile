# Two commands: `make demo` (the main job on embedded data) and `make test` (everything CI checks).
# Both need only Python 3.11+ and make; all else goes into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo

.PHONY: demo test lint types contracts format clean

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.run --run-dir $(RUN)

test: lint types contracts
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/basedpyright

contracts: $(VENV)/.test
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("jaxprune needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.experiments: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[experiments]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test]'
	@touch $@ $(VENV)/.experiments

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis .import_linter_cache
