# Everything a developer or CI does, from a bare clone with nothing but Python 3.11 or newer.
# Environments are made on first use, inside this folder, and made again when their inputs change.
.POSIX:

PYTHON = python3
TEST = tests/unit/test_poller.py
AIRFLOWS = 3.3.2 3.2.2 3.1.8 3.0.6 2.11.2

UV = dev/uv
VENV = .venv
VENV_BENCH = .venv-bench
BIN = $(VENV)/bin
READY = $(VENV)/.ready
READY_BENCH = $(VENV_BENCH)/.ready
# Azurite 3.36 and later need Node.js 21 or 22.
AZURITE = 3.35.0
STORES = .stores
INPUTS = pyproject.toml setup.cfg setup.py constraints/dev.txt

# The matrix: each Airflow with each Python that it supports, and the oldest of everything that pyproject.toml allows.
UNIT_CELLS = unit-3.3-py3.11 unit-3.3-py3.12 unit-3.3-py3.13 \
	unit-3.2-py3.11 unit-3.2-py3.12 unit-3.2-py3.13 \
	unit-3.1-py3.11 unit-3.1-py3.12 unit-3.1-py3.13 \
	unit-3.0-py3.11 unit-3.0-py3.12 \
	unit-2.11-py3.11 unit-2.11-py3.12 \
	unit-lowest-py3.11
EXAMPLE_CELLS = examples-3.3-py3.13 examples-3.1-py3.13 examples-2.11-py3.12
# The two halves of 3.3-py3.13
airflow_of = $(firstword $(subst -py, ,$(1)))
python_of = $(lastword $(subst -py, ,$(1)))

# Each process of the run has an Airflow of its own: while one waits for its Airflow, the other computes. The tests of a file run in
# one process, so an Airflow that a file starts for itself starts once. (The groups of xdist 3.8 have no effect with pytest 9.2.)
AIRFLOW_TESTS = -m pytest tests/airflow --dist loadfile
# Airflow 2 runs one task at a time on SQLite, so there only the harness, the examples, timeouts and events of outlets are tried.
EXAMPLE_TESTS = $(AIRFLOW_TESTS) -n 2 -m 'not services' -k 'test_states_xcoms_logs or example_dag or timeout or outlets'
UNIT_TESTS = -m pytest tests/unit -n 2 --dist worksteal
# Airflow 2.11.0 and 3.0 allow newer ones, but their object storage does not work with them.
OLD_PATHLIB = universal-pathlib<0.3
# Airflow 3.2 allows newer ones, but its API server does not start with them.
OLD_FASTAPI = fastapi<0.137
COMPILE = pip compile --quiet --python-version 3.11 --no-header --no-annotate

.PHONY: help quick-start demo demo-ui demo-distributed test lint types unit long-tests coverage airflow-tests services-tests heavy-tests volume-tests stores-tests browser-tests monitoring-tests matrix
.PHONY: docs screenshots monitoring-picture audit dist release-check soak mutants bench bench-from-trigger bench-failover bench-saving constraints clean
.PHONY: $(UNIT_CELLS) $(EXAMPLE_CELLS)
.SECONDEXPANSION:

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile

quick-start: $(VENV)/.installed ## make the environment, and run one file of unit tests in it: TEST=tests/unit/test_poller.py
	$(BIN)/python -m pytest $(TEST)

demo: $(READY) ## a real Airflow orders a video, waits for it without a worker slot, and saves it (about 2 minutes)
	@$(BIN)/python -m dev.demo

demo-ui: $(READY) ## the same, then keep Airflow and its UI running until Ctrl-C
	@$(BIN)/python -m dev.demo --ui

demo-distributed: $(VENV)/.with-distributed ## the same on PostgreSQL, Celery on Redis, two workers and two triggerers
	@$(BIN)/python -m dev.demo --distributed

test: lint types ## all checks that must pass before a commit (Airflow 3)
	@echo 'Unit tests, and tests with a real Airflow beside them, without output until they end ...'
	@$(MAKE) --jobs 2 --output-sync=target unit airflow-tests

lint: $(VENV)/.with-lint ## ruff, layers, spelling, the workflow, and compatibility of the installed packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet .github
	$(UV) pip check --quiet --python $(VENV)

types: $(READY) ## mypy
	$(BIN)/mypy --strict airflow_provider_manxue dev

unit: $(READY) ## unit tests
	$(BIN)/python $(UNIT_TESTS) -m 'not long'

long-tests: $(READY) ## unit tests that take minutes: schedules in virtual time, signatures
	$(BIN)/python $(UNIT_TESTS) -m long

coverage: .venv-3.2-py3.12/.ready ## branch coverage of the unit tests, which must not be lower than 95 %; with Airflow 3.2, so that CI needs no second run there
	.venv-3.2-py3.12/bin/python $(UNIT_TESTS) -m 'not long and not alarm' --cov --cov-report=term

airflow-tests: $(READY) ## the main paths with a real Airflow 3
	$(BIN)/python $(AIRFLOW_TESTS) -n 2 -m 'not services and not heavy'

services-tests: $(VENV)/.with-distributed ## tests with a real Airflow that need PostgreSQL and Redis
	$(BIN)/python $(AIRFLOW_TESTS) -n 2 -m services

heavy-tests: $(READY) ## the other tests with a real Airflow 3 that need no server
	$(BIN)/python $(AIRFLOW_TESTS) -n 2 -m 'heavy and not services and not volume'

volume-tests: $(READY) ## some of these with dozens of orders and a hundred waits (about 12 minutes)
	$(BIN)/python $(AIRFLOW_TESTS) -n 2 -m volume

stores-tests: $(VENV)/.with-stores $(STORES)/.azurite-$(AZURITE) ## saves with the real libraries of Azure, Google, SFTP and WebHDFS (needs Node.js)
	$(BIN)/python -m pytest tests/stores

browser-tests: $(VENV)/.with-browser $(VENV)/.with-docs ## tests of the UI and of the built documentation in Debian's Chromium
	$(BIN)/python -m pytest tests/browser

monitoring-tests: $(VENV)/.with-monitoring ## tests of the dashboard's queries and the alert rules in Debian's Prometheus
	$(BIN)/python -m pytest tests/monitoring

monitoring-picture: $(VENV)/.with-monitoring ## draw the dashboard's graphs, with throttling and an outage, in docs/img (50 minutes)
	$(BIN)/python -m dev.monitoring_picture

screenshots: $(VENV)/.with-browser ## take the screenshots in docs/img
	$(BIN)/python -m dev.screenshots

matrix: $(UNIT_CELLS) $(EXAMPLE_CELLS) ## unit tests for all pairs of Airflow and Python, and the lowest versions; a single pair: make unit-3.1-py3.13

$(UNIT_CELLS): unit-%: .venv-%/.ready
	.venv-$*/bin/python $(UNIT_TESTS) -m 'not long and not once'

$(EXAMPLE_CELLS): examples-%: .venv-%/.ready
	.venv-$*/bin/python $(EXAMPLE_TESTS)

docs: $(VENV)/.with-docs ## build the documentation in docs/_build; fails on any warning and on a link or picture that leads nowhere
	AIRFLOW_HOME="$$PWD/$(VENV)/airflow" $(BIN)/sphinx-build -W --keep-going -E -q docs docs/_build
	$(BIN)/python -m dev.check_site
	$(BIN)/python -m dev.search_words docs/_build

audit: .uv/.ready ## check all pinned packages for known vulnerabilities; needs the network
	for file in constraints/airflow-[0-9]*.txt; do \
		$(UV) tool run pip-audit --requirement $$file --no-deps --disable-pip || exit 1; \
	done

dist: $(VENV)/.with-dist ## build sdist and wheel in dist, check them, and install them with Airflow 3.3 and 2.11
	$(BIN)/python -m dev.dist

release-check: $(VENV)/.with-dist ## the same, and print what a release still lacks; with TAG=vX.Y.Z fail while it lacks anything
	$(BIN)/python -m dev.dist --release $(TAG)

soak: $(VENV)/.with-distributed $(VENV)/.with-fuzz ## long runs: a million schedules, the fuzzer, twenty chaos runs on a distributed deployment (hours)
	-$(BIN)/python -m tests.simulation --count 1000000 --keep
	-$(BIN)/python -m tests.fuzz
	-$(BIN)/python -m tests.chaos --seeds 1-20
	$(BIN)/python -m dev.long_runs

mutants: $(VENV)/.with-mutation ## mutation tests of the core (an hour or more)
	@AIRFLOW_HOME="$$PWD/$(VENV)/airflow" $(BIN)/python -m dev.mutants

bench: $(READY_BENCH) ## cost of a wait, compared with alternatives (about 10 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks

bench-from-trigger: $(READY_BENCH) ## cost of a wait without a worker process, compared with alternatives (about 20 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks.from_trigger

bench-failover: $(READY) ## delay of waits after the failure of a triggerer, and of timeouts (30 minutes; needs PostgreSQL)
	$(BIN)/python -m benchmarks.failover
	$(BIN)/python -m benchmarks.deadlines

bench-saving: $(READY_BENCH) ## speed of saving, and download tools during faults (about 20 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks.saving
	$(VENV_BENCH)/bin/python -m benchmarks.downloads

constraints: .uv/.ready ## update all pinned versions
	@for version in $(AIRFLOWS); do \
		file=constraints/airflow-$${version%.*}.txt; \
		echo "$$file"; \
		{ echo "apache-airflow==$$version"; case $$version in 3.0.*) echo '$(OLD_PATHLIB)';; 3.2.*) echo '$(OLD_FASTAPI)';; esac; } \
			| $(UV) $(COMPILE) --upgrade --universal \
			--group dev --group bench --group docs --group browser --group distributed --group dist --group fuzz --group monitoring --group mutation --group stores --extra testing \
			$$([ $$version != $(firstword $(AIRFLOWS)) ] || echo --group lint) \
			--output-file "$$file" pyproject.toml - >/dev/null || exit 1; \
	done
	@echo constraints/airflow-lowest.txt
	@$(UV) $(COMPILE) --no-deps --resolution lowest-direct --extra testing pyproject.toml >.uv/lowest.txt
	@echo '$(OLD_PATHLIB)' | $(UV) $(COMPILE) --upgrade --universal --group dev --extra testing \
		--constraints .uv/lowest.txt --output-file constraints/airflow-lowest.txt pyproject.toml - >/dev/null

clean: ## remove environments, caches and all other generated files
	rm -rf .uv $(VENV) $(VENV)-* .demo .fuzz $(STORES) build dist mutants docs/_build *.egg-info .coverage* .hypothesis .*_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call environment,folder,Airflow,interpreter,group of dependencies,options)
define environment
@echo 'Installing Airflow $(2) and the group $(4) into $(1) ...'
@$(UV) venv --quiet --clear --python $(3) $(1)
@$(UV) pip install --quiet $(5) --python $(1) --group $(4) --editable '.[testing]' \
	--constraints constraints/airflow-$(2).txt
@touch $@
endef

# Bytecode takes five sixths of the CPU of an installation, so `quick-start` does without it; the components of a real Airflow would
# all compile the same modules while they start.
$(VENV)/.installed: .uv/.ready $(INPUTS) constraints/airflow-3.3.txt
	$(call environment,$(VENV),3.3,.uv/bin/python,dev)

$(READY): $(VENV)/.installed
	@echo 'Compiling $(VENV) ...'
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV) --group dev --constraints constraints/airflow-3.3.txt
	@touch $@

$(READY_BENCH): .uv/.ready $(INPUTS) constraints/airflow-3.3.txt
	$(call environment,$(VENV_BENCH),3.3,.uv/bin/python,bench,--compile-bytecode)

# .venv-AIRFLOW-pyPYTHON
.venv-%/.ready: .uv/.ready dev/python $(INPUTS) constraints/airflow-$$(call airflow_of,$$*).txt
	@dev/python $(call python_of,$*) >/dev/null
	$(call environment,.venv-$*,$(call airflow_of,$*),"$$(dev/python $(call python_of,$*))",dev)

# What only some targets need, on top: the dependency group of that name.
$(VENV)/.with-%: $(READY)
	@echo 'Installing the group $* into $(VENV) ...'
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV) --group $* --constraints constraints/airflow-3.3.txt
	@touch $@

# The file's name has the version, so that a change of it installs again.
$(STORES)/.azurite-$(AZURITE):
	@command -v npm >/dev/null || { echo 'Azurite needs Node.js and npm. On Debian: apt-get install npm' >&2; exit 1; }
	@echo 'Installing Azurite $(AZURITE) into $(STORES) ...'
	@rm -rf $(STORES)
	@npm install --silent --no-audit --no-fund --ignore-scripts --omit=optional --prefix $(STORES) azurite@$(AZURITE)
	@touch $@

.uv/.ready: constraints/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed; name it with: make PYTHON=...' >&2; exit 1; }
	@echo 'Installing uv into .uv ...'
	@$(PYTHON) -m venv --clear .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check --requirement constraints/dev.txt
	@touch $@
