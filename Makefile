# som: `make demo` shows it on this machine, `make test` runs every tier that this machine can run.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTHON ?= python3

.PHONY: help setup generate check kubectl-som demo test test-full test-unit test-node release
help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtual environment, with locked dependencies; minutes the first time

$(STAMP): pyproject.toml setup.py requirements-dev.lock $(wildcard device-plugin/som_device_plugin/kubelet/*.proto)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'som needs Python 3.11 or newer: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/install-packages python3-venv
	@command -v gcc >/dev/null || tests/install-packages gcc libc6-dev
	@echo 'installing the locked dependencies into $(VENV), minutes the first time'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

generate: setup ## the CRDs of the chart, from the pydantic models; pages of docs/reference
	$(BIN)/python -m som_api.v1alpha1.crd --write charts/som/templates/crds
	$(BIN)/python docs/generate.py --write

check: setup ## formats, lints, types, import rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m som_api.v1alpha1.crd --check charts/som/templates/crds
	$(BIN)/python docs/generate.py --check

kubectl-som: setup ## dist/kubectl-som-*: the plugin of kubectl, one file for each platform, and krew's
	$(BIN)/python kubectl/onefile/build.py dist

demo: setup ## a pool of 2 GiB on this machine, two owners, everything given back
	$(BIN)/python examples/demo.py

test: setup ## every tier that this machine can run, with the time of each
	$(BIN)/python tests/tiers.py

test-full: export PYTEST_ADDOPTS = --hypothesis-profile=many
test-full: export SOM_POISON_SECONDS = 600
test-full: export SOM_CHURN_SECONDS = 600
test-full: export KERNEL = all
test-full: test test-driver-debug test-suites ## the same without cuts: many examples, long churn, all kernels; hours

# pytest compiles its tests once, also where the environment says not to keep what is compiled.
# Durable writes of a store under test need no disk. Tests wait for a third of their time, so that
# four processes have work for two cores. No test asks an authority of this machine: to read all of
# them takes each Python that speaks TLS 50 ms.
test-unit: export PYTHONDONTWRITEBYTECODE =
test-unit: export TMPDIR = $(wildcard /dev/shm)
test-unit: setup ## types and decisions; needs nothing
	SSL_CERT_FILE=/dev/null $(BIN)/pytest --processes=4 -o tmp_path_retention_policy=failed tests/unit

test-node: setup ## real huge pages on this machine, and local mode; needs root
	@command -v strace >/dev/null || tests/install-packages strace
	$(BIN)/pytest tests/node

# What only a release needs: the library of the bill of materials.
RELEASE_TOOLS := build/release-tools
release: setup ## images, chart, packages, module, bill of materials in dist/; REGISTRY= is where the chart finds the images
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --upgrade --target=$(RELEASE_TOOLS) -r release/requirements.lock
	PYTHONPATH=$(RELEASE_TOOLS) $(BIN)/python -m release --registry=$(REGISTRY)

-include tests/*/*.mk libsom/libsom.mk
