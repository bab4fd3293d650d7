# make bench   the main benchmark, in a virtual environment made for it
# make test    the tests, likewise (torch_scatter is built from source once: some minutes)
#              (SPARSE=1: torch_sparse too, for what samples neighbours: more minutes)
# make examples  the examples in a small form (ARGS=--full: as they are)
# make lint    style and types
# make build   the C++ kernels again, after a change to them
# make docs    the site, into build/site
# make sanitize  kernel tests on a build with address and undefined-behaviour checks
# make clang     kernel tests on a build by clang
# make fuzz      a fuzz of the C doors, with the same checks (clang; ARGS: how many inputs)
# make microbench  the passes alone (ARGS="--against LIBRARY": and those of another build)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

.PHONY: bench test examples lint build docs sanitize clang fuzz microbench clean

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

test: $(VENV)/.test $(if $(SPARSE),$(VENV)/.sparse)
	$(BIN)/python -m pytest $(ARGS)

examples: $(VENV)/.examples
	$(BIN)/python -m examples $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(VENV)/.base
	$(PIP) install --quiet --no-deps --editable .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

sanitize: $(VENV)/.test
	bash tests/sanitize/run.sh $(BIN)/python

clang: $(VENV)/.test
	bash tests/sanitize/clang.sh $(BIN)/python

fuzz:
	bash tests/sanitize/fuzz.sh $(ARGS)

microbench: $(VENV)/.base
	$(BIN)/python -m tests.native.microbench $(ARGS)

# torch comes first and alone: what is installed after it takes the version that is there. The extras
# are those of the project as it is installed by then: the C++ is built once.
$(VENV)/.base: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[bench]"
	touch $@

# torch_scatter's build needs the torch that is installed, so it is not isolated.
$(VENV)/.test: $(VENV)/.bench
	$(INSTALL) setuptools wheel ninja
	$(INSTALL) --no-build-isolation torch_scatter
	$(INSTALL) "gatv2_pyg[bench,test,examples]"
	touch $@

$(VENV)/.sparse: $(VENV)/.test
	$(INSTALL) --no-build-isolation torch_sparse
	touch $@

$(VENV)/.examples: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[examples]"
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[docs]"
	touch $@

clean:
	rm -rf $(VENV) build gatv2_pyg/kernels/cpu/_build*
