# rushes: every command makes its own environment. Needs Python ≥ 3.11 (with venv), make and git; uses uv when it is there.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Seconds a tier may take on two cores (installing not counted). A tier over its budget is named at the end; it does not fail.
TIERS := unit:20 contract:120 simulation:60 durability:90 api:120 docs:90
TYPES_BUDGET_S := 60

help: ## what there is
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "rushes needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python3"; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version), about half a minute the first time"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv -q --allow-existing --python "$$(command -v $(PYTHON))" $(VENV) && \
		uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

install: $(STAMP) ## make the environment

demo: $(STAMP) ## one real job, from a sentence to an MP4 (no key needed)
	@$(BIN)/python examples/demo.py

check: $(STAMP) ## format, lint, types, unit tests: under 30 s
	@$(BIN)/ruff format -q --check . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit

format: $(STAMP) ## rewrite the layout
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

test: $(STAMP) ## everything, tier by tier, with each tier's seconds
	@TYPES_BUDGET_S=$(TYPES_BUDGET_S) $(BIN)/python tests/tiers.py $(TIERS)

nightly: $(STAMP) ## the same with the large counts
	@RUSHES_NIGHTLY=1 $(BIN)/python tests/tiers.py --unbounded $(TIERS)

$(VENV)/.bench: $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev,bench]'; \
	else \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'; \
	fi
	@touch $@

bench: $(VENV)/.bench ## figures beside their floors, one JSON line each: make bench B=log
	@$(BIN)/python -m bench $(B)

PARITY := .venv-parity
SDKS := openai google-genai runwayml replicate

$(PARITY)/.installed: pyproject.toml constraints.txt parity/constraints.txt
	@test -n "$(PYTHON)" || { echo "rushes needs Python 3.11 or newer: say make PYTHON=/path/to/python3"; exit 2; }
	@echo "making $(PARITY) with the providers' own SDKs, about half a minute the first time"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv -q --allow-existing --python "$$(command -v $(PYTHON))" $(PARITY) && \
		uv pip install -q --python $(PARITY)/bin/python -c constraints.txt -c parity/constraints.txt -e '.[media]' $(SDKS); \
	else \
		$(PYTHON) -m venv $(PARITY) && \
		$(PARITY)/bin/python -m pip install -q -c constraints.txt -c parity/constraints.txt -e '.[media]' $(SDKS); \
	fi
	@touch $@

sdk-parity: $(PARITY)/.installed ## the providers' SDKs beside our adapters: make sdk-parity [SDK=runwayml] [BREAK=body]
	@BREAK='$(BREAK)' $(PARITY)/bin/python -m parity $(SDK)

record: $(STAMP) ## record a provider's cassettes anew: make record PROVIDER=replicate
	@$(BIN)/python cassettes/recorder.py $(PROVIDER)

# A recipe that fails makes GNU make end with 2, whatever its own code. With -q make ends with 1 where a line is left to do, so
# the seed runs while its recipe is read: 0 leaves nothing to do, 1 leaves a line, and 2 fails in a line that -q runs (+).
ifeq ($(MAKECMDGOALS),sim)
MAKEFLAGS += -q
endif
sim: ## run one simulated seed again: make sim SEED=7 [BREAK=no_intent] LOG=sim.log
	$(eval CODE := $(shell (env -u MAKEFLAGS $(MAKE) -s install && PYTHONPATH="tests/support:$$PYTHONPATH" $(BIN)/python \
		tests/simulation/replay_seed.py --seed='$(SEED)' --break='$(BREAK)' --log='$(LOG)') >&2; echo $$?))
	+@exit $(filter-out 0 1,$(or $(CODE),2))
	$(if $(filter 1,$(CODE)),@:)

clean: ## throw the environment and caches away
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help install demo check format test nightly bench sdk-parity record sim clean
