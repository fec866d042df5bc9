# make setup | demo | test | test-slow | lint | docs | bench | nano | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The one place where a laptop's torch differs from the image's (requirements.txt): the image needs
# a release that Cog's CUDA table knows, a laptop the newest one with CPU wheels for every Python.
LAPTOP_TORCH := 2.13.0
# Where to look for torch besides PyPI. For the small CPU build on Linux:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

# Nothing outside the checkout is written, pip's cache included.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow lint docs bench nano clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt requirements-sample.txt requirements-sign.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %s. Try: make setup PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	sed 's/^torch==.*/torch==$(LAPTOP_TORCH)/' requirements.txt > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-r $(VENV)/requirements.txt -r requirements-dev.txt -r requirements-sample.txt \
		-r requirements-sign.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	@$(BIN)/cogvideox demo

test: setup
	$(BIN)/pytest $(PYTEST_ARGS)

# Thousands of requests and hundreds of predictions: half an hour.
test-slow: setup
	$(BIN)/pytest -m slow -s $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/cogvideox schema t2v > docs/openapi-t2v.json
	$(BIN)/cogvideox schema i2v > docs/openapi-i2v.json
	$(BIN)/cogvideox schema train > docs/openapi-train.json
	$(BIN)/cogvideox schema t2v --update README.md docs/api.md
	$(BIN)/cogvideox schema i2v --update README.md docs/api.md
	$(BIN)/cogvideox schema train --update docs/training.md
	$(BIN)/cogvideox plan --training --update docs/training.md
	$(BIN)/cogvideox variants --update-readme README.md

bench: setup
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/speed_presets.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/sample.py

# Trains what ships in weights/nano and weights/nano-i2v: under two hours on two quiet cores. The
# same command goes on after an interruption.
nano: setup
	$(BIN)/python -m training.nano outputs/nano

clean:
	rm -rf $(VENV) .cache outputs checkpoints
