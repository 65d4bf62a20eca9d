# make demo and make test set everything up by themselves, in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PY := $(VENV)/bin/python
ANY_PY = $(if $(wildcard $(PY)),$(PY),$(PYTHON))
BUILD_TOOLS := "setuptools>=77" "cmake>=3.26" ninja "pybind11>=2.13"
HAS_COMPILER := $(shell command -v $${CXX:-c++} || command -v g++ || command -v clang++)
REQUIRE := $(if $(HAS_COMPILER),cpu,)
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
# Stamps: a second run installs nothing, a changed source builds again.
TORCH_STAMP := $(VENV)/.installed-$(subst ==,-,$(notdir $(TORCH)))
STAMP := $(VENV)/.installed-pavdit
# Bundled weights generate in seconds, without kernels too, which take minutes to build; built ones serve.
DEMO_STAMP := $(VENV)/.installed-demo
WEIGHTS := $(wildcard pavdit/weights/*/manifest.json)
BUILT := $(wildcard $(STAMP))

.PHONY: demo test test-slow golden lint bench kernels-check sanitize gpu-check gpu-weights weights clean

demo: $(if $(BUILT),$(STAMP),$(if $(WEIGHTS),$(DEMO_STAMP),$(STAMP)))
	$(PY) -m pavdit.cli.demo

# One thread a worker: more of them would spin against each other.
WORKERS ?= 2
test: $(STAMP)
	OMP_NUM_THREADS=1 PAVDIT_REQUIRE_KERNELS=$(REQUIRE) $(PY) -m pytest -q -m "not slow" -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)
	PAVDIT_REQUIRE_KERNELS=$(REQUIRE) $(PY) -m pytest -q

# Cases with the peers' own outputs, in a folder outside the repository: make golden GOLDEN=../shared/golden
golden: $(if $(wildcard $(GOLDEN)/features.npz),$(STAMP))
	@test -e "$(GOLDEN)/features.npz" || { echo "make golden: want GOLDEN=<folder of golden cases>, got '$(GOLDEN)'" >&2; exit 1; }
	$(PY) -m pip install --quiet --no-deps lpips==0.1.4  # for the heads in it; it is not imported
	PAVDIT_GOLDEN=$(abspath $(GOLDEN)) $(PY) -m pytest -q tests/golden

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# One op: make bench OP=adaln_modulate
OP ?= $(basename $(notdir $(wildcard benchmarks/ops/*.py)))
bench: $(STAMP)
	for op in $(OP); do $(PY) -m benchmarks.ops.$$op --json || exit 1; done

# UPDATE=1 writes csrc/cuda/resources.txt, which the table is compared with.
kernels-check: $(STAMP)
	$(PY) tools/kernels_check.py $(if $(UPDATE),--update)
	$(PY) tools/triton_check.py

# The CPU kernels under the address and undefined-behaviour sanitizers (gcc). ALL=1: bad calls at every
# instruction set, REDUCED=1: everything at the best one only.
sanitize: $(STAMP)
	$(PY) tools/sanitize.py $(if $(ALL),--all) $(if $(REDUCED),--reduced)

# For a machine with a CUDA device and its own torch: installs nothing, uses the libraries that lie in pavdit/.
# PART=tests, ops, sampler, training or sanitize (compute-sanitizer); the first three without PART.
gpu-check:
	$(ANY_PY) tools/gpu_check.py $(PART)

# The same for the bundled weights, within SECONDS: FROM=bounce-64 goes on from those that are there.
SECONDS ?= 520
gpu-weights:
	$(ANY_PY) tools/gpu_weights.py --seconds $(SECONDS) $(if $(FROM),--initial $(FROM))

# The bundled weights anew, with nothing installed either: twelve minutes on an H100 with 16 cores, out of reach on a
# CPU. Interrupted, the same command goes on. The result is measured and lies in out/.
weights:
	$(ANY_PY) -m pavdit.cli train configs/small-bounce.yaml
	$(ANY_PY) -m pavdit.cli train configs/small-bounce-generator.yaml
	$(ANY_PY) -m pavdit.cli export runs/small-bounce-generator -o out/bounce-64
	$(ANY_PY) benchmarks/bounce.py --checkpoint out/bounce-64 --json out/bounce-64.json

clean:
	rm -rf build dist out *.egg-info pavdit/_*.so .pytest_cache .ruff_cache .mypy_cache
	rm -f $(STAMP) $(DEMO_STAMP)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make: want Python 3.10 or later, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(TORCH_STAMP): | $(PY)
	@echo "Installing $(TORCH) into $(VENV); this takes a minute or two"
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet "$(TORCH)" $(BUILD_TOOLS)
	@touch $@

$(DEMO_STAMP): $(TORCH_STAMP) pyproject.toml setup.py
	@echo "Installing pavdit into $(VENV), without native kernels"
	PAVDIT_NATIVE=OFF $(PY) -m pip install --quiet --no-build-isolation --editable .
	@touch $@

$(STAMP): $(TORCH_STAMP) $(NATIVE)
	@echo "Building and installing pavdit into $(VENV)"
	$(PY) -m pip install --quiet --no-build-isolation --editable '.[test]'
	@touch $@
