# Every target is one command on a fresh Debian machine: it first installs what is missing.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= data
MINUTES ?= 10
export PYTHON

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN := .venv/bin
# .venv/bin contains Node.js where the machine has none.
export PATH := $(PATH):$(CURDIR)/$(BIN)

.PHONY: help setup run test check format client bench soak fuzz audit requirements clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-14s %s\n", $$1, $$2 }'

setup: ## install what the other targets need; they also do so themselves
	@.ci/setup dev

run: ## start the gateway on HOST and PORT, with its data in DATA
	@.ci/setup run
	@exec $(BIN)/images up --data "$(DATA)" --host "$(HOST)" --port "$(PORT)"

# Tests start hundreds of Python processes, and each would compile the gateway anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: ## run all tests; ARGS="-k upload" selects some
	@.ci/setup dev
	$(BIN)/pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=25 $(ARGS)

check: ## check format, lint, types, layers, exported schema, generated client and house rules
	@.ci/setup dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/images schema | diff -u schema.graphql -
	$(BIN)/python .ci/client --check
	$(BIN)/pytest -q tests/test_house_rules.py

format: ## format the code, and fix what ruff can fix
	@.ci/setup dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

client: ## generate app/client/generated from schema.graphql and app/client/documents
	@.ci/setup dev
	$(BIN)/python .ci/client

bench: ## measure speed and memory, as ratios within one run
	@.ci/setup dev
	$(BIN)/python -m tests.bench $(ARGS)

soak: ## attack a running gateway for MINUTES, and report the effect on its users
	@.ci/setup dev
	$(BIN)/python -m tests.soak --minutes "$(MINUTES)" $(ARGS)

fuzz: ## convert random and damaged images and read damaged disks for MINUTES, and judge the results
	@.ci/setup dev
	$(BIN)/python -m tests.fuzz --minutes "$(MINUTES)" $(ARGS)

audit: ## find known vulnerabilities, risky code and secrets; ARGS=--offline uses no online database
	@.ci/setup audit
	$(BIN)/python -m tests.audit $(ARGS)

requirements: ## compile the pinned requirements, each at its newest version
	@.ci/setup dev
	@.ci/requirements

clean: ## remove what the other targets created, except DATA
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf app/web/graphiql/{assets,assets.new,node_modules} tests/outside/node_modules
	find app workers tests -name __pycache__ -prune -exec rm -rf {} +
