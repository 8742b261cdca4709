# Two commands: `make run` trains, averages, measures and reports; `make test` runs the whole suite.
# Everything is installed inside the clone (.venv), with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
WORKDIR ?= runs/digits

.PHONY: run test lint readme agreement docs clean

run: $(VENV)/.installed-experiments
	@$(BIN)/jaxtrain run digits --workdir $(WORKDIR)

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n auto --dist worksteal

# The generated tables: papers in README.md, claims in experiments/README.md.
readme: $(VENV)/.installed-test
	@$(BIN)/python -m jaxtrain.papers README.md
	@$(BIN)/python -m experiments.readme

# Every paper's oracles, run and measured: docs/agreement.md.
agreement: $(VENV)/.installed-test
	@$(BIN)/python -m experiments.agreement

# The documentation as pages in site/; fails on a missing docstring, a dead link, a formula that is none.
docs: $(VENV)/.installed-docs
	@$(BIN)/python -m docs_site

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxtrain needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing jaxtrain[$*] (the first time takes a minute or two)"
	@$(PIP) install -c constraints.txt -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist site
