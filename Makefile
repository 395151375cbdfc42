PYTHON ?= python3
VENV ?= .venv
# The DeepSpeed ops that are needed, compiled before the tests start. Ranks of the plugin do without
# deepspeed_shm_comm; a training that is started by hand, as some tests do, does not.
OPS ?= fused_adam
test: OPS = fused_adam deepspeed_shm_comm
# More arguments for pytest, as in: make test ARGS="-p no:randomly -k zero3"
ARGS ?=
# A test run that takes longer is interrupted, so that it says what it was at.
TEST_LIMIT ?= 30m

START := $(shell date +%s)
IN_VENV := $(VENV)/bin/python
SAY = printf '[%4d s] %s\n' $$(($$(date +%s) - $(START)))
PYTEST = timeout --foreground --signal=INT --kill-after=30s $(TEST_LIMIT) $(IN_VENV) -m pytest

# pip leaves compiling to the first import (tools/setup.sh), which must then be kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test lint bench setup ops clean
.NOTPARALLEL:

help:    ## these lines
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: ops  ## from nothing to ZeRO stages 0 to 3 trained and judged on two ranks
	@$(SAY) "training under ZeRO stages 0 to 3 on scikit-learn's handwritten digits"
	@$(PYTEST) --pyargs pytest_deepspeed.suite -p no:randomly --ds-data=digits \
		-m 'zero0 or zero1 or zero2 or zero3' $(ARGS)
	@$(SAY) "done"

test: ops  ## the whole suite, then a marked part of it without xdist
	@$(SAY) "the whole suite, on two xdist workers"
	@$(PYTEST) -n 2 $(ARGS)
	@$(SAY) "the tests marked also_without_xdist, without xdist"
	@$(PYTEST) -p no:xdist -m also_without_xdist $(ARGS)

lint: setup  ## ruff and mypy
	@$(IN_VENV) -m ruff check
	@$(IN_VENV) -m ruff format --check
	@$(IN_VENV) -m mypy

bench: ops  ## the benchmarks that the docs quote
	@$(IN_VENV) -m benchmarks.ranks

setup:   ## the virtual environment, with everything installed in it
	@PYTHON='$(PYTHON)' VENV='$(VENV)' START=$(START) tools/setup.sh

ops: setup  ## the DeepSpeed ops that the tests need, compiled
	@$(SAY) "compiling DeepSpeed's $(OPS), unless that is done"
	@$(IN_VENV) -m pytest_deepspeed.processes.ops build $(OPS)

clean:   ## removes the virtual environment and what tools left in the tree
	rm -rf $(VENV) build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
