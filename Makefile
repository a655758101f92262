# SPDX-License-Identifier: GPL-2.0-or-later
# replblock: make test, make demo. Everything else: make help.
.PHONY: help setup test unit deep kernel-test cluster-test pacemaker-test lint demo bench fuzz torture sim mutants deb clean distclean

PYTEST_ARGS ?=
JOBS ?= 2
MINUTES ?= 60
SEED ?=

help:
	@echo 'make demo    two nodes on this machine: replicate, fail over, resynchronise'
	@echo 'make test    lint, types and all tests'
	@echo 'make unit    the tests alone; PYTEST_ARGS="tests/wire -k barrier" picks some'
	@echo 'make deep    the tests with generated examples, with thousands of new ones each'
	@echo 'make kernel-test  two guests with kernels of their own; what they need: docs/kernel-tests.md'
	@echo 'make cluster-test  the model deployment under Heartbeat, in two guests: docs/case.md'
	@echo 'make pacemaker-test  a file server under Pacemaker and corosync, in two guests: docs/pacemaker.md'
	@echo 'make bench   side by side with nbdkit and qemu-storage-daemon; BENCH_ARGS=--quick'
	@echo 'make torture real faults on real processes, every acknowledgement accounted for; MINUTES=60 SEED=4711'
	@echo 'make fuzz    fuzzing guided by coverage: TARGET=conf RUNS=1000000 SECONDS=600; docs/fuzzing.md'
	@echo 'make sim     two simulated nodes: SEED=7 replays a history, SEEDS=1000 a campaign, EXHAUSTIVE=3'
	@echo 'make mutants the product broken on purpose, a line at a time: does the simulator notice? NAMES= LIMIT=2000'
	@echo 'make lint    ruff and mypy'
	@echo 'make deb     a Debian package, in dist/'
	@echo 'make setup   what all of these do first: Debian packages, .venv (a no-op the second time)'
	@echo 'make clean   remove caches and results; make distclean: .venv too'

setup:
	@tools/setup

lint: setup
	@tools/lint

unit: setup
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal --durations=15 --durations-min=1 $(PYTEST_ARGS)

test: lint unit

deep: setup
	HYPOTHESIS_PROFILE=deep .venv/bin/python -m pytest --timeout 7200 -n $(JOBS) $(shell grep -rl '^from hypothesis' tests --include='test_*.py') $(PYTEST_ARGS)

kernel-test: setup
	REPLBLOCK_KERNEL_TESTS=all .venv/bin/python -m pytest --durations=0 --durations-min=1 tests/kernel \
	    --ignore-glob="*/test_heartbeat*" --ignore-glob="*/test_pacemaker*" $(PYTEST_ARGS)

cluster-test: setup
	REPLBLOCK_KERNEL_TESTS=all .venv/bin/python -m pytest -s --durations=0 --durations-min=1 \
	    $(wildcard tests/kernel/test_heartbeat*.py) $(PYTEST_ARGS)

pacemaker-test: setup
	REPLBLOCK_KERNEL_TESTS=all .venv/bin/python -m pytest -s --durations=0 --durations-min=1 \
	    tests/kernel/test_pacemaker.py $(PYTEST_ARGS)

demo: setup
	.venv/bin/replctl demo

bench: setup
	@.venv/bin/python -c 'import matplotlib' 2>/dev/null || .venv/bin/python -m pip --disable-pip-version-check \
	    install -q --no-build-isolation -e '.[bench]' || echo 'no matplotlib for this Python: going on without plots'
	.venv/bin/python bench/run.py $(BENCH_ARGS)

torture: setup
	.venv/bin/python -m tests.torture.main --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(TORTURE_ARGS)

# atheris weighs 60 MB and serves nothing else: only whoever fuzzes installs it. Without a wheel the seeds are damaged
# without guidance; everything else is the same.
RUNS ?= 1000000
SECONDS ?= 0
fuzz: setup
	@.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/python -m pip --disable-pip-version-check \
	    install -q --no-build-isolation -e '.[fuzz]' || echo 'no atheris for this Python: going on without guidance'
	.venv/bin/python -m tests.fuzz.run $(TARGET) --runs $(RUNS) --seconds $(SECONDS)

SIM_ARGS = $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) \
	$(if $(EXHAUSTIVE),--exhaustive $(EXHAUSTIVE)) $(if $(SHARE),--share $(SHARE)) $(if $(PROTOCOL),--protocol $(PROTOCOL)) \
	$(if $(SIM_JOBS),--jobs $(SIM_JOBS))
sim: setup
	.venv/bin/python -m tests.sim $(SIM_ARGS)

LIMIT ?= 2000
mutants: setup
	.venv/bin/python -m tests.sim.mutate --limit $(LIMIT) $(NAMES)

deb: setup
	.venv/bin/python tools/deb.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
