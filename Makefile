# Every target works in a fresh clone: it makes its own .venv with the extras that it needs.

PYTHON ?= python3
BIN := .venv/bin
DEV := .venv/.stamp-dev
DEMO := .venv/.stamp-onnx,viz,data
TORCH := .venv-torch/.stamp
PEERS := torch==2.13.0 tensorflow-cpu==2.21.0 jax==0.10.2 pytensor==3.0.7 onnxruntime==1.31.1
PEERS_BIN := .venv-peers/bin
GPU ?= gpu
GPU_PEERS_BIN := .venv-gpu-peers/bin
HAS_GPU := nvidia-smi --list-gpus >/dev/null 2>&1
FLOORS := passes runtime exporters

# An index of packages may be busy: pip asks again, and waits longer than it would by itself.
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60

.DEFAULT_GOAL := help
.PHONY: help demo test test-random test-oldest test-torch test-gpu test-cuda-compile lint types smoke bench bench-peers bench-gpu \
    on-gpu-test on-gpu-bench bench-gpu-peers bench-ops bench-memory bench-load docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train, run, export and draw a small network (examples/digits.py)"
	@echo "make test    lint, types, the wheel outside the checkout, the tests"
	@echo "make test-random    50,000 random programs against the reference"
	@echo "make test-oldest    the tests with the oldest versions of what graphc needs"
	@echo "make test-torch     values, gradients and training against PyTorch's"
	@echo "make test-gpu            everything on an NVIDIA GPU, against the reference"
	@echo "make test-cuda-compile   every kernel of the GPU compiled, and run on the CPU, in 6 minutes; needs no GPU"
	@echo "make bench   the benchmarks, side by side with the peers that are installed"
	@echo "make bench-peers    install them: 0.6 GB to download, 3.2 GB on disk"
	@echo "make bench-ops      each op against torch's, the worst first"
	@echo "make bench-memory   memory of a training step, beside torch's"
	@echo "make bench-load     how long runs take beside a busy process"
	@echo "make bench-gpu      a GPU's, with the peers that make bench-gpu-peers installs: several GB to download"
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

# The oldest versions that are allowed, as pip finds them: what is declared is what works. The oldest Python is wanted
# too, PYTHON=python3.11: later ones have no wheels of some of these.
test-oldest: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable . $$($(PYTHON) tests/oldest.py)
	.venv-oldest/bin/python -m pytest -q -n 2 --dist worksteal

# torch is large and nothing else needs it, so it has an environment of its own.
$(TORCH): pyproject.toml
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --editable . hypothesis pytest 'torch==2.13.0'
	touch '$@'

test-torch: $(TORCH)
	.venv-torch/bin/python -m pytest -q tests/test_torch.py tests/test_torch_training.py

# Without a GPU, its tests and benchmarks install nothing and say so in a line. GPU=gpu12 is for older drivers.
test-gpu bench-gpu: %-gpu:
	@if $(HAS_GPU); then $(MAKE) --no-print-directory on-gpu-$*; else echo "no NVIDIA GPU here: nothing to $*"; fi

on-gpu-test: .venv/.stamp-dev,$(GPU)
	GRAPHC_TEST_GPU=1 $(BIN)/pytest -q -m gpu

on-gpu-bench: .venv/.stamp-dev,$(GPU)
	$(BIN)/python -m benchmarks gpu --python $(GPU_PEERS_BIN)/python

bench-gpu-peers:
	$(PYTHON) -m venv $(dir $(GPU_PEERS_BIN))
	$(GPU_PEERS_BIN)/python -m pip install --quiet --disable-pip-version-check numpy 'torch==2.13.0' 'jax[cuda13]==0.10.2'

test-cuda-compile: $(DEV)
	GRAPHC_TEST_CUDA=all $(BIN)/pytest -q -n 2 --dist worksteal $(wildcard tests/test_cuda_*.py) tests/test_gpu.py

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

bench-ops bench-memory bench-load: bench-%: $(DEV)
	$(BIN)/python -m benchmarks $*

# Each peer is optional. They get an environment without graphc: some pin versions of what graphc depends on.
# torch's wheels for Linux may bring CUDA libraries of several GB; an index of CPU wheels avoids them.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	$(PEERS_BIN)/python -m pip install --quiet --disable-pip-version-check numpy onnx
	@for peer in $(PEERS); do \
	    $(PEERS_BIN)/python -m pip install --quiet --disable-pip-version-check $$peer \
	        && echo "$$peer installed" || echo "$$peer can't be installed here and is left out"; \
	done

docs: $(DEV)
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv .venv-oldest .venv-torch .venv-peers .venv-gpu-peers .types build dist graphc.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .test-cache
	rm -f digits.onnx digits.safetensors digits.svg
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
