# Every target sets up what it needs; `make test` in a new clone is enough.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
PIP_ARGS ?=
BENCH_ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := build/tools/.installed
EVERYTHING := '.[dev,huggingface]'
PYTEST := -m pytest --numprocesses $(WORKERS) --dist worksteal
ALL := -m 'not nightly'
QUICK := $(patsubst %,tests/test_%.py,architecture bad_input cost evaluate golden ir language passes schedule)

# Without byte code every worker and every process that a test starts parses all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup check test test-all nightly test-newest test-lowest test-tools newest lock golden lint format bench docs clean

setup: $(INSTALLED)

# The stamp is written last, so a broken install is tried again and a whole one is not repeated.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable $(EVERYTHING)
	touch $@

test: $(INSTALLED)
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

# For the loop of writing and trying: the lint, and what tests the core in about a minute.
check: lint
	$(BIN)/python -m pytest $(QUICK) $(PYTEST_ARGS)

# What `test` leaves out, after it: the studies, which look at networks that the rest has tested, each
# on three of seven days, in turn, so that CI keeps within its time; at night all are run.
test-all: test
	$(BIN)/python $(PYTEST) -m 'studies and not nightly' --in-turn $(PYTEST_ARGS)

nightly: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m 'nightly or studies' --hypothesis-profile nightly $(PYTEST_ARGS)

# Outside the lock: the newest versions that pyproject.toml admits, of what builds the package too.
newest:
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/python -m pip install --quiet --upgrade setuptools
	build/newest/bin/python -m pip install --quiet --no-build-isolation --editable $(EVERYTHING)

test-newest: newest
	build/newest/bin/python $(PYTEST) $(ALL) $(PYTEST_ARGS)

# The lowest versions that it admits, of what it names; the newest of what these need.
test-lowest:
	$(PYTHON) -m venv --clear build/lowest
	grep -oE '[a-z-]+>=[0-9.]+' pyproject.toml | sed 's/>=/==/' > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --constraint build/lowest.txt --editable $(EVERYTHING)
	build/lowest/bin/python $(PYTEST) $(ALL) $(PYTEST_ARGS)

# Other people's tools on our exports, in an environment of their own: they need much that we don't.
$(TOOLS): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear build/tools
	build/tools/bin/python -m pip install --quiet --constraint constraints.txt --editable $(EVERYTHING) transformer-lens==4.3.0 nnsight==0.8.1
	touch $@

test-tools: $(TOOLS)
	build/tools/bin/python -m pytest tests/test_tools.py tests/test_examples.py \
		-k 'test_tools or nnsight or transformer_lens' $(ALL) $(PYTEST_ARGS)

# Run it with the lowest Python that pyproject.toml admits, which needs the most packages. A build
# gets an environment of its own, which constraints don't reach: so pyproject.toml holds setuptools.
lock: newest
	build/newest/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+.*//' > build/lock.txt
	sed -i.old "s/setuptools==[0-9.]*/$$(grep '^setuptools==' build/lock.txt)/" pyproject.toml && rm pyproject.toml.old
	{ echo '# The versions that are tested, and that the README installs. `make lock` renews them.'; cat build/lock.txt; } > constraints.txt

golden: $(INSTALLED)
	$(BIN)/python -m tests.test_golden
	$(BIN)/python -m tests.test_docs

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# All pages in one run, hours long; what has ended on this code and this machine is not run again.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Warnings are errors (`strict` in mkdocs.yml). The gallery compiles every program, which takes two
# minutes, less with less optimisation by XLA, and is kept in build/gallery until the code changes.
QUICKLY := --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 XLA_FLAGS="$(QUICKLY)" $(BIN)/python -m mkdocs build --quiet

clean:
	rm -rf build dist lsrl.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
