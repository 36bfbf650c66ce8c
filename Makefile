# Only Python 3.11, 3.12 or 3.13 and make are needed: every goal makes .venv if it is missing.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed-base
INSTALLED := $(VENV)/.installed

.PHONY: help demo check test test-all numbers lint docs clean coverage mutation soak bench structures pictures notebooks constraints

help:  ## Show the goals.
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Every file is checked against its hash, also the build tools: requirements.txt has wheels only and contains the pinned
# setuptools, which builds the one source distribution of constraints.txt. Users get the base, developers the rest as well.
PIP := $(BIN)/pip --quiet --disable-pip-version-check

$(BASE): pyproject.toml requirements.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found: install one, or give PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --only-binary :all: --requirement requirements.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(INSTALLED): $(BASE) constraints.txt
	$(PIP) install --require-hashes --no-build-isolation --requirement constraints.txt
	touch $@

##@ For users

demo: $(BASE)  ## Transfer, diagnose and repair on generated images, offline, about two minutes.
	$(BIN)/finetune demo

##@ For developers

# Two processes, because each takes up to 5 GiB. Processes that tests start need not compile the package again.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(INSTALLED)  ## Format, lint, type-check and test: the one command before a commit.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not soak"

lint: $(INSTALLED)  ## Check format, lint and strict types, as CI does.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(INSTALLED)  ## Run the tests, on two cores.
	$(PYTEST) -m "not slow and not soak"

test-all: $(INSTALLED)  ## Run the long tests as well: full-size networks, pages of the docs, kills, full disks.
	$(PYTEST) --optimised-graphs

# In an environment of its own, with whatever of the rest pip finds: the range of TensorFlow in pyproject.toml.
TENSORFLOW := 2.19
OTHER := .venv-tensorflow-$(TENSORFLOW)
numbers:  ## Run the tests of numbers with another release of TensorFlow: make numbers TENSORFLOW=2.19.
	test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/pip install --quiet --editable '.[slim]' 'tensorflow==$(TENSORFLOW).*' hypothesis pytest pytest-timeout pytest-xdist
	$(OTHER)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not soak" \
	  $(addprefix tests/, networks unit/backbone unit/batchnorm unit/evaluation unit/tf_graphs unit/training/loop)

docs: $(INSTALLED)  ## Write the tables of docs/ that come from the code, and build the site: site/index.html.
	$(BIN)/python -m tools.settings_table
	$(BIN)/finetune backbones list --markdown > docs/backbones.md.tmp
	mv docs/backbones.md.tmp docs/backbones.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:  ## Remove the environment and what was generated.
	rm -rf $(VENV) .venv-tensorflow-* $(TORCH) build dist site *.egg-info demo-runs .pytest_cache .mypy_cache .ruff_cache

##@ For maintainers

# Subprocesses of pytest and of the tests are measured too: pyproject.toml, tool.coverage.
COVERAGE := $(BIN)/python -m coverage
coverage: $(INSTALLED)  ## Measure the lines and branches that the tests reach; fails below 90 %.
	$(COVERAGE) erase
	$(COVERAGE) run -m pytest -n 2 --dist worksteal -m "not slow and not soak"
	$(COVERAGE) combine --quiet
	$(COVERAGE) report

mutation: $(INSTALLED)  ## Change verdict, strict loading and evaluation, and count the changes that tests notice; fails below 85 %.
	$(BIN)/python -m tests.mutation.run_mutants

soak: $(INSTALLED)  ## Run thousands of hostile files, hundreds of kills, full disks: docs/evidence/reliability.md.
	$(BIN)/python -m pytest -m soak tests/soak

# PyTorch is a contender, not a dependency: it has its own environment of 1 GB.
TORCH := .venv-torch
$(TORCH)/.installed:
	test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy
	touch $@

bench: $(INSTALLED) $(TORCH)/.installed  ## Time finetune, Keras's recipe, tf_slim and PyTorch, one after another: benchmarks/RESULTS.md.
	$(BIN)/python -m benchmarks.peers --torch-python $(TORCH)/bin/python $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(BENCH)

pictures: $(INSTALLED)  ## Make the pictures of README.md and docs/ from a demo, in Chromium; four minutes.
	$(BIN)/python -m tools.pictures

notebooks: $(INSTALLED)  ## Run examples/*.ipynb and keep their output.
	$(BIN)/python -m tools.notebooks

structures: $(INSTALLED)  ## Write checkpoints/structures.json.gz from the networks of the catalogue; five minutes.
	$(BIN)/python -m tools.structures

# For every Python and system that pyproject.toml allows, with the hashes of all files of a version. Pinned versions stay
# pinned; UPGRADE=--upgrade takes the newest of all packages, UPGRADE='--upgrade-package keras' of one.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make constraints'

constraints: $(INSTALLED)  ## Write constraints.txt and requirements.txt from pyproject.toml.
	$(LOCK) pyproject.toml --all-extras $(UPGRADE) --output-file constraints.txt
	$(LOCK) pyproject.toml --constraint constraints.txt --upgrade --output-file requirements.txt
