# Two commands: `make reproduce` (everything, from nothing to the report) and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SCALE  ?= tiny
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup cluster reproduce plan test test-all test-slurm lint format schemas bench lock push pull clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.complete ## create .venv from the hash-pinned lock

$(VENV)/.complete: envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or later is needed; say which with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/installer.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r envs/requirements.lock \
	  || $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

cluster: setup ## add what profiles/slurm and profiles/kubernetes need to .venv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r envs/cluster.lock \
	  || $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r envs/cluster.lock

reproduce: setup ## run everything that is missing at the scale of params.yaml, then print where the report is
	@$(BIN)/ovss reproduce

plan: setup ## what would run, what it costs and what is missing: make plan SCALE=full
	@$(BIN)/ovss plan --scale $(SCALE)
	@$(BIN)/snakemake --dry-run --quiet all --config scale=$(SCALE) -- all > /dev/null

test: setup ## all tests but the slow ones (under 10 minutes)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-all: setup ## all tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --slow

test-slurm: cluster ## run a scale under a SLURM of this machine: the same bytes as locally? make test-slurm SCALE=smoke
	@SCALE=$(if $(filter file,$(origin SCALE)),smoke,$(SCALE)) tests/slurm/run.sh

lint: setup ## ruff, snakefmt, mypy, schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check --compact-diff Snakefile rules
	$(BIN)/mypy
	$(BIN)/ovss schema --check

format: setup ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

schemas: setup ## write the JSON schemas of the YAML files
	$(BIN)/ovss schema

bench: setup ## print the benchmarks
	@for file in bench/*.py; do $(BIN)/python $$file || exit 1; done

lock: setup ## renew the lock files from envs/*.in
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --upgrade -o envs/requirements.lock envs/requirements.in
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --upgrade -o envs/installer.lock envs/installer.in
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --upgrade -o envs/cluster.lock envs/cluster.in

push: setup ## send data, checkpoints and results to the DVC remote
	$(BIN)/dvc push

pull: setup ## fetch them: nothing has to run then
	$(BIN)/dvc pull

clean: ## delete outputs (not .venv, not the DVC cache)
	rm -rf work logs benchmarks .snakemake
