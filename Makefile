VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
DEMO := runs/demo

.PHONY: demo test lint results fuzz gpu clean

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/molsam train bundled --baseline --out $(DEMO)
	$(BIN)/molsam predict $(DEMO) docs/molecules.csv
	@echo "edit docs/molecules.csv and run: $(BIN)/molsam predict $(DEMO) docs/molecules.csv"
	@echo "pictures: $(DEMO)/learning_curve.png $(DEMO)/parity.png"

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

# The tables of docs/results.md, docs/studies.md and the evidence in recipes/, from their CSV, and
# the reference of the commands, from the commands.
results: $(VENV)/.dev
	PYTHONPATH=docs $(BIN)/python -m pages

# Broken input by the thousand, for some minutes; see docs/trust.md.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz.py --inputs 3000

# On a machine with CUDA, by the Python of .venv or $(PYTHON), with all that is installed there.
gpu:
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" $(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu.py

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) runs site dist .pytest_cache .ruff_cache .hypothesis
