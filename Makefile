# Everything starts here: `make` lists what there is. Settings are given as `make book VENV=/big/disk/venv`.
VENV ?= .venv
JOBS ?= 2
PORT ?= 8000
# The first interpreter that is Python 3.11, else any Python 3, which then says what is missing.
PYTHON = $(shell for name in python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$name && exit; done; echo python3)
RUN = $(VENV)/bin/python

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help env book serve test demo check bench colab lock clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

env:  ## create or update the environment (every other command does it by itself)
	@$(PYTHON) tools/environment.py --venv "$(VENV)"

book: env  ## execute every chapter and build the HTML; warnings are errors (STRICT=1: slow and large chapters too)
	@$(RUN) -m tools.build_book --jobs $(JOBS) $(if $(STRICT),--strict)

serve:  ## read the built book at http://localhost:8000 (PORT=…)
	@test -f _build/html/index.html || { echo "There is no built book yet: run 'make book' first."; exit 1; }
	@echo "The book is at http://localhost:$(PORT) (Ctrl-C ends it)"
	@$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html >/dev/null 2>&1

test: env  ## run the tests and the examples in the docstrings (ARGS="-k kd" for some of them)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) $(ARGS)

demo: env  ## the main experiment, small: teacher, RipsNet, and students with and without topology
	@$(VENV)/bin/topokd demo $(ARGS)

check: env  ## formatting, lint, types, import directions
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports

bench: env  ## time the library against the official route, correctness first
	@$(RUN) -m benchmarks $(ARGS)

colab: env  ## run every chapter from an empty folder in an environment like Colab's
	@$(RUN) -m tools.prove_colab $(ARGS)

lock: env  ## write requirements/py311.txt anew (UPGRADE=1: with the newest versions)
	@$(RUN) -m tools.lock $(if $(UPGRADE),--upgrade)

clean:  ## remove what was built; keeps the environment, the runs and the artefacts
	@rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
