# One word for each habit. Every target sets up what it needs; nothing but Python >= 3.11 is expected.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test fuzz lint type fmt bench bench-walls bench-peers test-gpu up clean
.DEFAULT_GOAL := help

help:
	@echo "make demo | test | fuzz | up | bench | bench-walls | bench-peers | test-gpu | lint | type | fmt | clean"

# The generated wire code is made by the build hook, which runs only at install: the stamp depends on the protos.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard protos/*/*.proto protos/*/*/*.proto)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

setup: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

type: $(STAMP)
	$(BIN)/mypy

# Everything CI wants: style, types, tests with subprocesses measured, the coverage bar.
test: lint type
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadscope --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Property tests with random examples, FUZZ times as many as `make test` has; not in CI.
FUZZ ?= 10
fuzz: $(STAMP)
	FUZZ=$(FUZZ) $(BIN)/python -m pytest -n 2 --dist loadscope -m hypothesis

demo: $(STAMP)
	$(BIN)/python examples/demo/run.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

# Not in CI: they want a quiet machine, or a GPU.
bench-walls: $(STAMP)
	$(BIN)/python benchmarks/walls.py --out docs/results/walls

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py

# GPU_PYTHON=python3 takes an interpreter as it is, with the torch it has; wheels in .gpu/ supply what it lacks
# (benchmarks/gpu_bundle.py). Without it the checks run in the environment that `setup` makes.
GPU_OUT ?= docs/results
ifdef GPU_PYTHON
test-gpu:
	if ls .gpu/*.whl >/dev/null 2>&1; then $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile \
		--upgrade --target .gpu/site .gpu/*.whl; fi
	PYTHONPATH="$(CURDIR):$(CURDIR)/.gpu/site" $(GPU_PYTHON) benchmarks/gpu_all.py --out $(GPU_OUT)
else
test-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu_all.py --out $(GPU_OUT)
endif

DATA_DIR ?= .partywall
up: $(STAMP)
	test -d $(DATA_DIR) || $(BIN)/partywall init --data-dir $(DATA_DIR)
	$(BIN)/partywall up --data-dir $(DATA_DIR)

clean:
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo
