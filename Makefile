# Every target sets up what it needs; `make test` in a new clone is enough.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Each part is named, since pdoc leaves out the submodules that `__all__` does not list.
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard lsrl/*/__init__.py))
MODULES := $(basename $(filter-out lsrl/__%,$(wildcard lsrl/*.py)))

.PHONY: setup test nightly lint format bench docs clean

setup: $(INSTALLED)

# The stamp is written last, so a broken install is tried again and a whole one is not repeated.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,huggingface]'
	touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

nightly: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m nightly --hypothesis-profile nightly

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.compile
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.torch_models
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.device
	$(BIN)/python -m benchmarks.universality
	$(BIN)/python -m benchmarks.error_bounds
	$(BIN)/python -m benchmarks.stability
	$(BIN)/lsrl suite build build/suite
	$(BIN)/python -m benchmarks.interpretability build/suite

docs: $(INSTALLED)
	$(BIN)/pdoc --docformat google --output-directory build/docs lsrl $(subst /,.,$(PACKAGES) $(MODULES))

clean:
	rm -rf build dist lsrl.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
