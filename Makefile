# som: `make demo` shows it on this machine, `make test` runs every tier that this machine can run.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTHON ?= python3

.PHONY: setup generate check demo test test-unit test-node
setup: $(STAMP)

$(STAMP): pyproject.toml setup.py requirements-dev.lock $(wildcard device-plugin/som_device_plugin/kubelet/*.proto)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get -q update && apt-get -qy install python3-venv; }
	@command -v gcc >/dev/null || { apt-get -q update && apt-get -qy install gcc libc6-dev; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

generate: setup ## the CRDs of the chart, from the pydantic models; pages of docs/reference
	$(BIN)/python -m som_api.v1alpha1.crd --write charts/som/templates/crds
	$(BIN)/python docs/generate.py --write

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m som_api.v1alpha1.crd --check charts/som/templates/crds
	$(BIN)/python docs/generate.py --check

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python tests/tiers.py

test-unit: setup
	$(BIN)/pytest tests/unit

test-node: setup
	@command -v strace >/dev/null || test $$(id -u) != 0 || { apt-get -q update && apt-get -qy install strace; }
	$(BIN)/pytest tests/node

-include tests/*/*.mk
