# Needs only make and Python 3.11 or newer; everything else goes into .venv, once.
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
# Two processes, of a thread each, share the files: more hold a GB of libraries each, more threads wait for each other.
# The longest files come first (tests/conftest.py): neither process waits for the other at the end.
RUN_TESTS := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
TESTS := tests

.PHONY: demo test test-minimal test-latest mutants media lint docs bench clean

demo: $(READY)
	$(BIN)/python benchmarks/demo.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python $(RUN_TESTS) $(TESTS)

# The same tests with the lowest versions that setup.cfg allows, and with the newest, each in an environment of its own
# (5 GB, made anew: the newest are others tomorrow). CI runs a part with the lowest; the rest by hand, before a release and
# after a change of the ranges.
test-minimal:
	$(PYTHON) -m venv --clear $(VENV)-minimal
	$(VENV)-minimal/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-minimal.txt --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-minimal/bin/python $(RUN_TESTS) $(TESTS)

test-latest:
	$(PYTHON) -m venv --clear $(VENV)-latest
	$(VENV)-latest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-latest/bin/python $(RUN_TESTS) $(TESTS)

# Do the tests notice faults in the method? Before a release, and after a change of the method or of its tests.
mutants: $(READY)
	$(BIN)/python tests/mutants.py

# The table of containers, codecs and decoders in docs/howto/own-data.md.
media: $(READY)
	$(BIN)/python tests/films.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ as a site, in site/; Material's notice about its successor is no fault of ours.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(BENCH_READY)
	$(BIN)/python benchmarks/quantizer.py
	$(BIN)/python benchmarks/targets.py
	$(BIN)/python benchmarks/learning/run.py presets --only audio --seed 0 --again
	$(BIN)/python benchmarks/learning/run.py recipe --arm 'tiny preset' --arm 'levels weigh the same' --seed 0 --again

# What others publish and the benchmarks compare with.
$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $(BENCH_READY)

clean:
	rm -rf $(VENV) $(VENV)-minimal $(VENV)-latest build site *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "BRIDLE needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
