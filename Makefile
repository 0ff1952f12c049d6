# Everything that a person runs. Each target sets up what it needs first; set-up happens once.
SHELL := /bin/bash
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
export DAGSTER_HOME := $(CURDIR)/.dagster
export FT_PIPELINE_RECIPE ?= demo
# Work that the host and its user must not see: telemetry of the libraries.
export HF_HUB_DISABLE_TELEMETRY := 1

# The terminal shows what stages say; every event is in Dagster's own log.
QUIET := {"loggers": {"console": {"config": {"log_level": "INFO"}}}}

# A process for each core, each with one thread: torch's threads of two processes wait for each other in loops. A test
# takes up to 3 GB. The files with tests that take minutes come first (conftest.py).
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

READY := $(VENV)/.ready
HOME_READY := .dagster/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo run dev test test-all check format doctor plan pin verify gc backup restore rollback history alert-test audit lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## Virtual environment, pinned packages, llama.cpp (once)

$(READY): pyproject.toml constraints.txt scripts/setup.sh scripts/ggml-quants-lanes.patch scripts/llama_template.cpp
	@bash scripts/setup.sh

# Two first runs at once can break a fresh Dagster database, so it is made here, before anything runs.
$(HOME_READY): $(READY)
	@mkdir -p .dagster
	@[ -f .dagster/dagster.yaml ] || ln -sf ../dagster.yaml .dagster/dagster.yaml # one of your own stays
	@$(VENV)/bin/dagster instance info >/dev/null
	@$(VENV)/bin/dagster instance concurrency set gpu 1 >/dev/null
	@touch $@

demo: ## All assets of the demo recipe, for real, on this machine; prints where the report is
	@$(MAKE) --no-print-directory run FT_PIPELINE_RECIPE=demo

run: $(HOME_READY) ## All assets of FT_PIPELINE_RECIPE=name
	@$(VENV)/bin/dagster asset materialize --select '*' -m ft_pipeline.definitions --config-json '$(QUIET)'
	@$(VENV_PYTHON) -m ft_pipeline report

dev: $(HOME_READY) ## The Dagster UI on http://127.0.0.1:3000
	@$(VENV_PYTHON) -m ft_pipeline.defs.dev --host 127.0.0.1 --port $${PORT:-3000} --workspace workspace.yaml

test: $(READY) ## The tests that need no GPU and do not take long
	@OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m "not gpu and not long" $(PARALLEL)

test-all: $(READY) ## The same and what takes long, with coverage; writes benchmarks/results/all_tests.md
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m benchmarks.all_tests $(PARALLEL) --cov --cov-report=term

check: $(HOME_READY) ## Lint, format, types, and that Dagster can load the definitions
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/dagster definitions validate --workspace workspace.yaml

format: $(READY) ## Format and fix what can be fixed
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

doctor: $(HOME_READY) ## What is missing or mismatched on this machine, and the fix
	@$(VENV_PYTHON) -m ft_pipeline doctor

plan: $(READY) ## Memory, speed and hours of RECIPE=name, predicted, on each card or on CARD=rtx4090
	@$(VENV_PYTHON) -m ft_pipeline plan $(RECIPE) $(if $(CARD),--card $(CARD))

pin: $(READY) ## Record the Hub's present commits in the recipe RECIPE=name
	@$(VENV_PYTHON) -m ft_pipeline pin $(RECIPE)

verify: $(READY) ## Compare every artifact's files with the hashes in its manifest
	@$(VENV_PYTHON) -m ft_pipeline verify

gc: $(HOME_READY) ## Where the disk went and why, and remove what nobody needs; DRY_RUN=1 only shows
	@$(VENV_PYTHON) -m ft_pipeline gc $(if $(DRY_RUN),--dry-run)
	@$(VENV_PYTHON) -m ft_pipeline.defs.history $(if $(DRY_RUN),--dry-run)

backup: $(READY) ## Write what must not be lost into one file in the folder TO=folder; runs may be going on
	@$(VENV_PYTHON) -m ft_pipeline backup $(TO)

restore: $(READY) ## Fill the empty artifact store from the backup FROM=file
	@$(VENV_PYTHON) -m ft_pipeline restore $(FROM)

rollback: $(READY) ## RECIPE=name back to the champion before, or to TO=fingerprint that was champion once
	@$(VENV_PYTHON) -m ft_pipeline rollback $(RECIPE) $(if $(TO),--to $(TO))

history: $(READY) ## Who is champion, challenger and best of RECIPE=name, and how that came to be
	@$(VENV_PYTHON) -m ft_pipeline history $(RECIPE)

alert-test: $(READY) ## Send a trial message to the receivers of alerts (docs/alerts.md)
	@$(VENV_PYTHON) -m ft_pipeline alert-test

audit: $(READY) ## Known faults of the pinned packages, by PyPI's list
	@$(VENV_PYTHON) scripts/audit.py

lock: ## Resolve the ranges of pyproject.toml into constraints.txt anew (needs the network)
	@bash scripts/lock.sh

clean: ## Remove the environment and Dagster's home; data and artifacts stay
	rm -rf $(VENV) $(DAGSTER_HOME) .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage*
