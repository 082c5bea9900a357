# Graft. `make help` lists what can be made.
# Needs only python3 with venv, and make. GPU=1 installs TensorFlow with CUDA.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements$(if $(GPU),-gpu,).lock
# The kind of installation is part of the stamp's name, so that changing GPU= installs anew.
STAMP := $(VENV)/.installed$(if $(GPU),-gpu,)
IN_VENV = PATH="$(CURDIR)/$(BIN):$$PATH"
# tf.estimator was removed after TensorFlow 2.15, whose last Python is 3.11: loop=estimator has an environment of its own.
ESTIMATOR := .venv-estimator
PYTHON311 = $(shell for python in $(PYTHON) python3.11; do \
  $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python && break; done)
HOME_DIR := $(or $(GRAFT_HOME),$(CURDIR))
JOURNAL := $(HOME_DIR)/mlruns/optuna.journal

.PHONY: help setup sweep train test chaos lint audit format bench bench-full ui dashboard tensorboard compare report rerun
.PHONY: doctor fuzz
.PHONY: experiment clean cluster-up cluster-down

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install into .venv from the lock; quick when nothing changed

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Graft needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed*; touch $@

$(ESTIMATOR)/.installed: requirements-estimator.lock pyproject.toml
	@test -n "$(PYTHON311)" || { echo "loop=estimator needs Python 3.11, and neither $(PYTHON) nor python3.11 is one." \
	  "Try: make PYTHON=/folder/python3.11 $(MAKECMDGOALS)$(if $(NAME), NAME=$(NAME))"; exit 2; }
	$(PYTHON311) -m venv $(ESTIMATOR)
	$(ESTIMATOR)/bin/python -m pip install --quiet --require-hashes --requirement requirements-estimator.lock
	$(ESTIMATOR)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

sweep: setup ## The main job: transfer against fine-tuning, then the comparison
	@$(IN_VENV) python train.py -m trainable=true,false $(ARGS); status=$$?; \
	  test $$status -gt 1 || $(IN_VENV) graft compare; exit $$status

train: setup ## One run; ARGS='trainable=true epochs=5' sets keys
	$(IN_VENV) python train.py $(ARGS)

ifeq ($(NAME),estimator)
experiment: BIN := $(ESTIMATOR)/bin
endif
experiment: $(if $(filter estimator,$(NAME)),$(ESTIMATOR)/.installed,setup) ## Run experiments/NAME.yaml: make experiment NAME=dropout
	@test -n "$(NAME)" || { echo "Which one? make experiment NAME=$$(cd experiments && ls *.yaml | sed 's/\.yaml//' | paste -sd'|')"; exit 2; }
	@$(IN_VENV) python train.py experiments=$(NAME) $(ARGS); status=$$?; \
	  test $$status -gt 1 || $(IN_VENV) graft compare; exit $$status

compare: setup ## Compare the trials of the latest sweep, or of SWEEP=
	@$(IN_VENV) graft compare $(SWEEP)

report: setup ## Write the page about the latest sweep, or SWEEP=; ARGS='--output DIR' as for graft report
	@$(IN_VENV) graft report $(SWEEP) $(ARGS)

rerun: setup ## Run RUN= again and compare, a run's id or a sweep's name; ARGS=--verify gives a verdict
	@test -n "$(RUN)" || { echo "Which one? make rerun RUN=<run id>, which make ui and make compare show"; exit 2; }
	@$(IN_VENV) graft rerun "$(RUN)" $(ARGS)

doctor: ## Check the installation and the records; ARGS=--close-dead as for graft doctor
	@test -x $(BIN)/graft || { echo "Nothing is installed yet: make setup"; exit 2; }
	@$(IN_VENV) graft doctor $(ARGS)

ui: setup ## MLflow's pages on http://127.0.0.1:5000, or on PORT=
	$(IN_VENV) mlflow ui --backend-store-uri "sqlite:///$(HOME_DIR)/mlruns/mlflow.db" --host 127.0.0.1 --port $(or $(PORT),5000)

dashboard: setup ## Optuna's pages on http://127.0.0.1:8080, or on PORT=: the studies behind the sweeps
	@test -f "$(JOURNAL)" || { echo "There is no sweep yet: make sweep, or python train.py -m with several values of a key"; exit 2; }
	$(IN_VENV) optuna-dashboard "$(JOURNAL)" --storage-class JournalFileStorage --host 127.0.0.1 --port $(or $(PORT),8080)

tensorboard: setup ## TensorBoard over all runs on http://127.0.0.1:6006, or on PORT=
	$(IN_VENV) tensorboard --logdir "$(HOME_DIR)/mlruns" --host 127.0.0.1 --port $(or $(PORT),6006)

cluster-up: setup ## PostgreSQL and an MLflow server on this machine, for many workers; PG_PORT= MLFLOW_PORT=
	@$(IN_VENV) graft cluster up $(if $(PG_PORT),--postgres-port $(PG_PORT)) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT))

cluster-down: ## Stop both; their data stays in mlruns/cluster
	@test -x $(BIN)/graft || { echo "Nothing is installed yet: make setup"; exit 2; }
	@$(IN_VENV) graft cluster down

test: setup lint ## Lint, types, import rules and the whole test suite, and what of Graft it executed
	-@$(IN_VENV) python .ci/audit.py
	@if test -n "$(PYTHON311)"; then $(MAKE) --no-print-directory $(ESTIMATOR)/.installed; \
	  else echo "There is no Python 3.11 here: the tests of loop=estimator skip"; fi
	$(IN_VENV) python -m tests.coverage -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: setup ## Hundreds of faults at random moments, half an hour, and a table of them; SEED= repeats a run
	@$(IN_VENV) python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: setup ## Over 100,000 made-up inputs, most of them wrong; ARGS='tests/fuzz/test_spaces.py' those of one target
	$(IN_VENV) GRAFT_LONG=1 python -m pytest --timeout 3600 $(or $(ARGS),tests/fuzz)

lint: setup ## Style, types and import rules
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports --no-cache

audit: setup ## Known vulnerabilities of what the locks name, where pip-audit is installed; else how old they are
	@$(IN_VENV) python .ci/audit.py $(ARGS)

format: setup ## Rewrite the code in the project's style
	$(IN_VENV) ruff format .
	$(IN_VENV) ruff check --fix .

bench: setup ## The benchmarks of some minutes; PHOTOS=/folder names what training is measured on
	$(IN_VENV) python -m benchmarks $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-full: setup ## All benchmarks, on all photos, which takes hours; PHOTOS= as for bench
	$(IN_VENV) python -m benchmarks --full $(if $(PHOTOS),--photos "$(PHOTOS)")

clean: ## Remove .venv and every cache; what you recorded in mlruns stays
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis mlruns/cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
	@test -z "$(GRAFT_CACHE)" || echo "What lies in GRAFT_CACHE=$(GRAFT_CACHE) stays: others may use it. graft cache rm --all"
