VENV := .venv
BIN := $(VENV)/bin
RELEASE := $(VENV)-release/bin
PYTHON ?= python3
DEMO := runs/demo

.PHONY: demo test lint coverage mutants results fuzz gpu dist audit constraints clean

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

# The share of branches that tests take, in the process that runs them.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=json

# What the tests notice of small changes; it goes on where it was stopped.
mutants: $(VENV)/.dev
	$(BIN)/python tests/mutants.py

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

# A wheel, a source archive and a bill of materials (CycloneDX) of all that is installed beside it.
dist: $(VENV)/.dev $(VENV)/.release
	$(BIN)/python -m build --outdir dist
	$(RELEASE)/cyclonedx-py environment --output-reproducible --of JSON -o dist/sbom.json $(BIN)/python

# Known faults of the pinned versions, as PyPI's advisories list them.
audit: $(VENV)/.release
	$(RELEASE)/pip-audit --requirement constraints.txt --no-deps --disable-pip

# The newest versions that fit together on every Python; torch stays, for its builds differ by GPU.
constraints: $(VENV)/.release
	grep '^torch==' constraints.txt > $(VENV)/torch.txt
	$(RELEASE)/uv pip compile --universal --python-version 3.10 --upgrade --no-annotate --no-header \
		--constraint $(VENV)/torch.txt --all-extras --output-file constraints.txt pyproject.toml

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

# In an environment of its own: what it needs is no part of what it lists.
$(VENV)/.release: pyproject.toml
	$(PYTHON) -m venv $(RELEASE:/bin=)
	$(RELEASE)/python -m pip install --quiet cyclonedx-bom pip-audit uv
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-release runs site dist mutants .coverage coverage.json .pytest_cache .ruff_cache .hypothesis
