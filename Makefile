# Two commands do everything on a fresh machine with python3 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
K8S_BIN ?= $(HOME)/.cache/lbproxy/k8s

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster chaos lint format bench clean

help: ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.runtime ## three simulated apiservers and the balancer on 127.0.0.1:8080
	$(BIN)/lbproxy demo $(ARGS)

test: $(VENV)/.test ## install and run all tests but those of the real cluster
	$(BIN)/python -m pytest -m "not cluster" $(ARGS)

test-cluster: $(VENV)/.test ## build a real Kubernetes control plane (6 minutes, once) and run its tests
	LBPROXY_K8S_BIN=$(K8S_BIN) tests/cluster/build.sh
	LBPROXY_K8S_BIN=$(K8S_BIN) $(BIN)/python -m pytest -m cluster tests/cluster -s -o faulthandler_timeout=400 $(ARGS)

chaos: $(VENV)/.test ## what clients see when masters die behind lbproxy, nginx and HAProxy (40 minutes, root)
	LBPROXY_K8S_BIN=$(K8S_BIN) tests/cluster/build.sh
	LBPROXY_K8S_BIN=$(K8S_BIN) $(BIN)/python -m tests.cluster.chaos $(ARGS)

lint: $(VENV)/.test $(VENV)/.lint $(VENV)/.bench ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lbproxy tests bench

format: $(VENV)/.lint ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test $(VENV)/.bench ## compare with nginx and HAProxy (needs them and wrk)
	$(BIN)/python bench/run.py --quick $(ARGS)

clean: ## remove what was installed and cached
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# One stamp for each set of packages: a second run of make installs nothing.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'lbproxy needs Python 3.11 or newer; PYTHON=/path/to/it says which'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'install python3-venv first: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.runtime: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@
