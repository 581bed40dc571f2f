# `make demo` (the main job on embedded data), `make test` (what CI checks: every promise, within ten
# minutes on two cores) and `make test-full` (all combinations, full sizes, several processes, and a
# newer Python with the newest JAX where there is one).
# They need only Python 3.11+ and make; all else goes into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-full test-newer lint types contracts format dist docs clean

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.run --run-dir $(RUN)

test: lint types contracts
	$(PYTEST) -m "not slow"

# With the emitter of kernels that XLA has by default (see tests/conftest.py).
test-full: lint types contracts
	XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0" $(PYTEST)
	$(MAKE) test-newer

# The default tests on the newest Python that is found, whose JAX may be newer than Python 3.11's.
test-newer:
	@for python in python3.14 python3.13 python3.12 "$$HOME"/.pyenv/versions/3.1[234].*/bin/python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then found=$$python; fi; \
	  case $$found in python3.*) break;; esac; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.12 or newer is found: the tests with the newest JAX are left out."; \
	else \
	  echo "The tests on $$($$found --version):"; \
	  $(MAKE) $(VENV)-newer/.test VENV=$(VENV)-newer PYTHON="$$found" && \
	  $(VENV)-newer/bin/python -m pytest --numprocesses auto --dist worksteal -m "not slow"; \
	fi

# The pages of docs/ and all public names, as HTML in docs/_build. Warnings are errors.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build

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

# The source distribution and the wheel, in dist/; see docs/releasing.md.
dist: $(VENV)/.test
	$(BIN)/python -m pip install --quiet 'hatchling>=1.27,<2'
	$(BIN)/python -m hatchling build

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

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[experiments,docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-newer .test_programs runs dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
