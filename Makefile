# Every target works in a fresh clone: it makes its own .venv with the extras that it needs.

PYTHON ?= python3
BIN := .venv/bin
DEV := .venv/.stamp-dev
DEMO := .venv/.stamp-onnx,viz,data
TORCH := .venv-torch/.stamp
FLOORS := passes runtime exporters

.DEFAULT_GOAL := help
.PHONY: help demo test test-random test-torch lint types smoke bench docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train, run, export and draw a small network (examples/digits.py)"
	@echo "make test    lint, types, the wheel outside the checkout, the tests"
	@echo "make test-random    50,000 random programs against the reference"
	@echo "make test-torch     values, gradients and training against PyTorch's"
	@echo "make bench   the benchmarks"
	@echo "make types   mypy alone"
	@echo "make docs    everything generated in docs/"
	@echo "make clean   remove .venv and whatever else was built"

$(BIN)/python:
	$(PYTHON) -m venv .venv

# One stamp for each set of extras; a change of the dependencies renews it.
.venv/.stamp-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch '$@'

demo: $(DEMO)
	$(BIN)/python examples/digits.py

# pytest comes last, so that its closing line is the last thing on the screen.
test: lint types smoke
	$(BIN)/pytest -q -n 2 --dist worksteal

test-random: $(DEV)
	$(BIN)/pytest -q -n 2 --dist worksteal --hypothesis-profile=sweep tests/test_random_graphs.py

# torch is large and nothing else needs it, so it has an environment of its own.
$(TORCH): pyproject.toml
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --editable . hypothesis pytest 'torch==2.13.0'
	touch '$@'

test-torch: $(TORCH)
	.venv-torch/bin/python -m pytest -q tests/test_torch.py tests/test_torch_training.py

lint: $(DEV)
	$(BIN)/ruff check

# Type checkers can't follow the mapping of an editable install, so they see the package through a tree of links.
types: $(DEV)
	rm -rf .types
	mkdir -p .types/graphc
	ln -s $(addprefix ../../,$(FLOORS) $(filter-out %/__pycache__,$(wildcard graphc/*))) .types/graphc/
	$(BIN)/mypy

smoke: $(DEV)
	$(BIN)/python tests/smoke/wheel.py

bench: $(DEV)
	$(BIN)/python -m benchmarks

docs: $(DEV)
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv .venv-torch .types build dist graphc.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
