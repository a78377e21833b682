# A fresh machine needs Python 3.11+ and make; everything else is installed into .venv.
#   make serve PORT=9000         settings are environment variables: see README.md
#   make test ARGS="-k sqlite"   arguments for pytest

VENV := .venv
UV_VERSION := 0.13.8
ARGS :=

UV := $(VENV)/bin/uv
# Stamps: what is newer than its stamp is installed again, and nothing else is.
UV_READY := $(VENV)/.uv-$(UV_VERSION)
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BROWSER := $(VENV)/.installed-browser
SYNC := $(UV) sync --frozen --inexact --extra code

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV
# The tests start some hundred processes: without bytecode on disk each compiles the service and its libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install serve test lint format browser bench sim clients sweep model modelserver sandbox fuzz chaos storm mutants docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## install the service into .venv; the command is .venv/bin/assistants

serve: $(INSTALLED) ## run API and worker on http://127.0.0.1:8000
	$(VENV)/bin/assistants serve

test: $(INSTALLED_DEV) ## run all tests except those of the browser; installs Azurite
	$(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED_DEV) ## check style, types and the allowed imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file tests/mypy.ini # names that tests use and that no longer exist
	$(VENV)/bin/python tools/lint_imports.py

format: $(INSTALLED_DEV) ## format the code, and apply the linter's fixes
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

browser: $(INSTALLED_BROWSER) ## test the docs page, and pages of other sites, in Chromium, which must be installed
	$(VENV)/bin/pytest tests/browser $(ARGS)

bench: $(INSTALLED_DEV) ## measure, about 35 minutes; ARGS=--quick for a rough result
	$(VENV)/bin/python tests/bench/bench.py $(ARGS)

sim: $(INSTALLED_DEV) ## play 10,000 random histories; ARGS="--seed 7" plays one of them, line by line
	$(VENV)/bin/python -W error tests/simulation/sim.py $(ARGS)

clients: $(INSTALLED_DEV) ## run those clients on Azurite that make test runs on SQLite only
	CLIENTS=others $(VENV)/bin/pytest -n auto --dist loadfile tests/clients $(ARGS)

sweep: $(INSTALLED_DEV) ## crash at every storage call of every scenario; make test covers a part of the calls
	SWEEP=100 $(VENV)/bin/pytest -n auto tests/simulation/test_crash_sweep.py tests/simulation/test_files_crash.py tests/simulation/test_stores_crash.py $(ARGS)

modelserver: $(INSTALLED_DEV) ## send all kinds of requests of a run to a real model server: URL=http://.../v1 MODEL=name
	PYTHONPATH=tests/support $(VENV)/bin/python tests/providers/model_server.py $(URL) $(MODEL)

sandbox: $(INSTALLED_DEV) ## attack the sandbox as root, as another user, in an emulated container, on an older kernel; needs root
	PYTHONPATH=tests/sandbox $(VENV)/bin/python tests/sandbox/environments.py

model: $(INSTALLED_DEV) ## compare hundreds of random sequences of operations with the reference; others in each run
	MODEL=$${MODEL:-30} $(VENV)/bin/pytest -n auto tests/wire/test_model.py $(ARGS)

fuzz: $(INSTALLED_DEV) ## send 10,000 requests generated from the OpenAPI document and 10,000 malformed ones; SEED=7 repeats a run
	FUZZ=$${FUZZ:-10000} $(VENV)/bin/pytest -s tests/wire/test_fuzz.py $(ARGS)

chaos: $(INSTALLED_DEV) ## kill -9 of real processes over Azurite, and thousands of readers; about 15 minutes
	$(VENV)/bin/python tests/chaos/chaos.py $(ARGS)
	READERS=5 $(VENV)/bin/pytest -q -s tests/chaos/test_readers.py

storm: $(INSTALLED_DEV) ## half a minute of 503s from Azure, over HTTP; make test plays a few seconds
	STORM=30 $(VENV)/bin/pytest tests/chaos/test_outage.py $(ARGS)

mutants: $(INSTALLED_DEV) ## remove each condition and each step of a commit order: a test must fail
	$(VENV)/bin/python tests/mutants.py $(ARGS)

docs: $(INSTALLED_DEV) ## update the settings, examples and list of mutants in the docs
	PYTHONPATH=tests/support $(VENV)/bin/python tests/test_docs.py
	$(VENV)/bin/python tests/mutants.py --docs

clean: ## delete everything that was installed, and caches; keep data/
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .import_linter_cache .hypothesis
	find . \( -name __pycache__ -o -name .ruff_cache -o -name node_modules \) -type d -prune -exec rm -rf {} +

# An environment that is there and works is kept.
$(UV_READY):
	@set -e; \
	fits() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	if ! fits $(VENV)/bin/python; then \
	    for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	        if fits "$$python"; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	        echo 'No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$("$$found" --version) ..."; \
	    "$$found" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi; \
	echo 'Installing uv $(UV_VERSION) ...'; \
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)/bin/python -m ensurepip >/dev/null; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(INSTALLED): $(UV_READY) pyproject.toml uv.lock
	@echo 'Installing the service and what it needs ...'
	@$(SYNC) --no-dev
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo 'Installing what the tests need ...'
	@$(SYNC) --compile-bytecode # once, rather than by several processes of tests at the same time
	@touch $@

$(INSTALLED_BROWSER): $(INSTALLED_DEV)
	@echo 'Installing Playwright ...'
	@$(SYNC) --group browser
	@touch $@
