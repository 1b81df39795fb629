# Every target makes and uses .venv by itself, and does nothing twice.
#   make report      measure on this machine and write reports/index.html
#   make test        the suite; make test-all adds torch, SciPy and the slow tests
#   make bench       the pytest-benchmark suite, 15 minutes at most; make bench-full without limit
#   make check       ruff, format, mypy;    make mutants    planted faults, all of which must be noticed
#   make hunt        random problems, calls and properties against the definitions for SECONDS=600
#   make sanitize    the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
# PYTHON=python3.12 chooses the interpreter, ISA=v3 builds one instruction set, JOBS=4 test processes.

PYTHON ?= python3
ISA ?= all
JOBS ?= 2
SECONDS ?= 600

VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

# Requirements live in pyproject.toml alone: $(call install,build test) installs what these groups name.
REQUIREMENTS := import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
 g = {"build": p["build-system"]["requires"], **p["project"]["optional-dependencies"]}; \
 print(*(line for name in sys.argv[1:] for line in g[name]), sep="\n")
install = @echo "installing: $(1)" && $(PY) -c '$(REQUIREMENTS)' $(1) > $(VENV)/requirements.txt && \
 $(PY) -m pip install -q -r $(VENV)/requirements.txt

.DEFAULT_GOAL := help
.PHONY: help report test test-all bench bench-full check format hunt mutants sanitize readme kernels planner clean
.DELETE_ON_ERROR:

help:
	@sed -n '2,8s/^# *//p' Makefile

# -- Set-up: one stamp per step ---------------------------------------------------------------------

$(VENV)/.made:
	@sh tools/preflight.sh "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Editable, without build isolation: what is compiled is compiled again when its source changes.
$(VENV)/.built: $(VENV)/.made pyproject.toml meson.build meson.options
	@CC="$(CC)" sh tools/preflight.sh "$(PYTHON)"
	$(call install,build)
	@echo "compiling the kernels"
	@$(PY) -m pip install -q --no-build-isolation -Csetup-args=-Disa=$(ISA) -e .
	@touch $@

# What other targets need beyond the package itself.
$(VENV)/.for-%: $(VENV)/.built pyproject.toml
	$(call install,$(subst +, ,$*))
	@touch $@

# Compiles what changed, once, before several processes import it.
define compile
@$(PY) -c 'import fastconv'
endef

# -- What to do -------------------------------------------------------------------------------------

report: $(VENV)/.for-bench
	$(compile)
	$(PY) -m bench run --preset quick
	$(PY) -m bench report

test: $(VENV)/.for-test+bench
	$(compile)
	$(PY) -m pytest -n $(JOBS) -m "not serial"
	$(PY) -m pytest -m serial

test-all: $(VENV)/.for-test+bench+peers
	$(compile)
	$(PY) -m pytest --all -n $(JOBS) -m "not serial"
	$(PY) -m pytest --all -m serial

# The measured table and picture of README.md, beside PyTorch.
readme: $(VENV)/.for-bench+peers
	$(compile)
	$(PY) -m bench run --preset readme --out reports/runs/readme.jsonl
	$(PY) -m bench readme reports/runs/readme.jsonl

# docs/kernels.md: how near each compiled kernel comes to what the machine can do.
kernels: $(VENV)/.for-bench
	$(compile)
	$(PY) -m bench run --preset kernels --out reports/runs/kernels.jsonl
	$(PY) -m bench kernels reports/runs/kernels.jsonl

# Winograd and the planner's choices beside every library that pyproject.toml names, with bars.
planner: $(VENV)/.for-bench+all-peers
	$(compile)
	$(PY) -m bench run --preset planner

bench: $(VENV)/.for-test+bench
	$(compile)
	$(PY) -m pytest bench/suites --benchmark-only -m "not slow"

bench-full: $(VENV)/.for-test+bench
	$(compile)
	$(PY) -m pytest bench/suites --benchmark-only

check: $(VENV)/.for-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.for-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

hunt: $(VENV)/.for-test
	$(compile)
	$(PY) tests/hunt.py --seconds $(SECONDS)

# In build/sanitize, with a compilation of its own; .venv stays as it is.
sanitize: $(VENV)/.for-test
	$(PY) tests/sanitize.py $(ISA)

mutants: $(VENV)/.for-test
	$(compile)
	$(PY) tests/mutants.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
