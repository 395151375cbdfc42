PYTHON ?= python3
VENV ?= .venv
# The DeepSpeed ops that are needed, compiled before the tests start. Ranks of the plugin do without
# deepspeed_shm_comm; a training that is started by hand, as some tests do, does not.
OPS ?= fused_adam
test: OPS = async_io cpu_adam fused_adam deepspeed_shm_comm
modes soak soak-gate: OPS = async_io cpu_adam fused_adam
# More arguments for pytest, as in: make test ARGS="-p no:randomly -k zero3"
ARGS ?=
# What `make test` may not skip. Slurm's tests run where it is installed; the set-up installs it for
# root.
REQUIRE ?= nvme$(shell PATH="$$PATH:/usr/sbin:/sbin" command -v slurmctld >/dev/null && echo ,slurm)
# A test run that takes longer is interrupted, so that it says what it was at.
TEST_LIMIT ?= 60m
# Of `make soak`, `make soak-gate` and `make faults`; `make clean` lets them start from the first.
ROUNDS ?= 20
soak-gate faults: ROUNDS = 10

# Of `make test-versions`: oldest, newest; both unless said.
LANES ?=

START := $(shell date +%s)
IN_VENV := $(VENV)/bin/python
SAY = printf '[%4d s] %s\n' $$(($$(date +%s) - $(START)))
PYTEST = timeout --foreground --signal=INT --kill-after=30s $(TEST_LIMIT) $(IN_VENV) -m pytest

# pip leaves compiling to the first import (tools/setup.sh), which must then be kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo modes test test-versions soak soak-gate faults lint bench setup setup-tests ops clean
.NOTPARALLEL:

help:    ## these lines
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 19

demo: ops  ## from nothing to ZeRO stages 0 to 3 trained and judged on two ranks
	@$(SAY) "training under ZeRO stages 0 to 3 on scikit-learn's handwritten digits"
	@$(PYTEST) --pyargs pytest_deepspeed.suite.test_zero -p no:randomly --ds-data=digits $(ARGS)
	@$(SAY) "done"

modes: ops  ## every ZeRO and offload mode, each check of it
	@$(SAY) "training under every mode that this machine can run"
	@$(PYTEST) --pyargs pytest_deepspeed.suite.test_modes -p no:randomly -q \
		--ds-require=nvme $(ARGS)

test: setup-tests ops  ## the whole suite, then a marked part of it without xdist
	@$(SAY) "the whole suite, on two xdist workers"
	@$(PYTEST) -n 2 --ds-require=$(REQUIRE) $(ARGS)
	@$(SAY) "the tests marked also_without_xdist, without xdist"
	@$(PYTEST) -p no:xdist -m also_without_xdist $(ARGS)

test-versions: setup  ## one test per feature beside the oldest and the newest releases supported
	@PYTHON='$(PYTHON)' START=$(START) tools/test_versions.sh $(LANES)

# Each round has weights and samples of its own; one that is done is not repeated.
soak: ops  ## `make modes` twenty times over: no false alarm
	@mkdir -p .soak
	@for round in $$(seq 1 $(ROUNDS)); do \
		test -e .soak/$$round.done && continue; \
		$(SAY) "round $$round of $(ROUNDS)"; \
		$(PYTEST) --pyargs pytest_deepspeed.suite.test_modes -p no:randomly -q \
			--ds-require=nvme --ds-seed=$$round $(ARGS) > .soak/$$round.log 2>&1 || \
			{ tail -n 40 .soak/$$round.log; exit 1; }; \
		tail -n 1 .soak/$$round.log; mv .soak/$$round.log .soak/$$round.done; \
	done

soak-gate: setup-tests ops  ## the gate on twelve changes ten times over: no wrong verdict
	@mkdir -p .soak
	@for round in $$(seq 1 $(ROUNDS)); do \
		test -e .soak/gate-$$round.done && continue; \
		$(SAY) "round $$round of $(ROUNDS)"; \
		GATE_SEED=$$round $(PYTEST) tests/gate/test_twelve_changes.py -p no:randomly -q \
			$(ARGS) > .soak/gate-$$round.log 2>&1 || \
			{ tail -n 40 .soak/gate-$$round.log; exit 1; }; \
		tail -n 1 .soak/gate-$$round.log; mv .soak/gate-$$round.log .soak/gate-$$round.done; \
	done

# Rounds that are done stand in .faults, and are not repeated: their numbers add up.
faults: setup-tests ops  ## things go wrong, many times over: right verdicts, nothing left
	@$(IN_VENV) tests/faults/campaign --seeds $(ROUNDS) $(ARGS)

lint: setup  ## ruff and mypy
	@$(IN_VENV) -m ruff check
	@$(IN_VENV) -m ruff format --check
	@$(IN_VENV) -m mypy

bench: ops  ## the benchmarks that the docs quote
	@$(IN_VENV) -m benchmarks.ranks
	@$(IN_VENV) -m benchmarks.configs
	@$(IN_VENV) -m benchmarks.gate
	@$(IN_VENV) -m benchmarks.cost
	@$(IN_VENV) -m benchmarks.long_session
	@$(IN_VENV) -m benchmarks.nodes
	@$(IN_VENV) -m benchmarks.systems

setup:   ## the virtual environment, with everything installed in it
	@PYTHON='$(PYTHON)' VENV='$(VENV)' START=$(START) tools/setup.sh

# A target of its own, since `make lint test` makes each target once.
setup-tests:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' START=$(START) FOR=tests tools/setup.sh

ops: setup  ## the DeepSpeed ops that the tests need, compiled
	@$(SAY) "compiling DeepSpeed's $(OPS), unless that is done"
	@$(IN_VENV) -m pytest_deepspeed.processes.ops build $(OPS)

clean:   ## removes the virtual environment and what tools left in the tree
	rm -rf $(VENV) .venv-versions .soak .faults build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
