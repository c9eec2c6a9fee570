# Everything a developer or CI does, from a bare clone with nothing but Python 3.11 or newer.
# Environments are made on first use, inside this folder, and made again when their inputs change.
.POSIX:

PYTHON = python3
AIRFLOW_3 = 3.3.2
AIRFLOW_2 = 2.11.2

UV = dev/uv
VENV = .venv
VENV_2 = .venv-2.11
VENV_BENCH = .venv-bench
BIN = $(VENV)/bin
READY = $(VENV)/.ready
READY_2 = $(VENV_2)/.ready
READY_BENCH = $(VENV_BENCH)/.ready
INPUTS = pyproject.toml setup.cfg constraints/dev.txt

# Airflow 2 runs one task at a time on SQLite, so there only the harness, the example and timeouts are tried.
AIRFLOW_TESTS_2 = test_harness or example_dag or timeout
COVERAGE = --cov --cov-report=term

.PHONY: help demo demo-ui demo-distributed test lint types unit airflow-tests services-tests heavy-tests browser-tests airflow211
.PHONY: docs screenshots audit dist soak bench bench-from-trigger bench-failover bench-saving constraints clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## watch a real Airflow wait for a video without holding a worker slot (about 2 minutes)
	@$(BIN)/python -m dev.demo

demo-ui: $(READY) ## the same, then keep Airflow and its pages running until Ctrl-C
	@$(BIN)/python -m dev.demo --ui

demo-distributed: $(VENV)/.with-distributed ## the same on PostgreSQL, Celery on Redis, two workers and two triggerers
	@$(BIN)/python -m dev.demo --distributed

test: lint types unit airflow-tests ## everything that must pass before a commit (Airflow 3)

lint: $(READY) ## style, common mistakes, and whether the installed packages fit together
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(UV) pip check --quiet --python $(VENV)

types: $(READY) ## static types
	$(BIN)/mypy --strict airflow_provider_manxue dev

unit: $(READY) ## fast tests, with branch coverage
	AIRFLOW_HOME="$$PWD/$(VENV)/airflow" $(BIN)/python -m pytest tests --ignore tests/airflow --ignore tests/browser -n 2 $(COVERAGE)

airflow-tests: $(READY) ## tests against a real Airflow 3 with all its components
	$(BIN)/python -m pytest tests/airflow -m 'not services and not heavy'

services-tests: $(VENV)/.with-distributed ## those of them that need PostgreSQL and Redis
	$(BIN)/python -m pytest tests/airflow -m services

heavy-tests: $(READY) ## those of them that take minutes each
	$(BIN)/python -m pytest tests/airflow -m heavy

browser-tests: $(VENV)/.with-browser ## tests of the pages that people see, in Debian's Chromium
	$(BIN)/python -m pytest tests/browser

screenshots: $(VENV)/.with-browser ## take the pictures in docs/img again
	$(BIN)/python -m dev.screenshots

airflow211: $(READY_2) ## unit tests and the example on the oldest supported Airflow
	AIRFLOW_HOME="$$PWD/$(VENV_2)/airflow" $(VENV_2)/bin/python -m pytest tests --ignore tests/airflow --ignore tests/browser -n 2
	$(VENV_2)/bin/python -m pytest tests/airflow -m 'not services and not heavy' -k '$(AIRFLOW_TESTS_2)'

docs: $(VENV)/.with-docs ## the documentation as a site in docs/_build; fails on any warning
	AIRFLOW_HOME="$$PWD/$(VENV)/airflow" $(BIN)/sphinx-build -W --keep-going -E -q docs docs/_build

audit: .uv/.ready ## look all pinned packages up in PyPI's database of vulnerabilities; needs the network
	for file in constraints/airflow-*.txt; do \
		$(UV) tool run pip-audit --requirement $$file --no-deps --disable-pip || exit 1; \
	done

dist: $(VENV)/.with-dist ## sdist and wheel in dist, checked, and tried in clean environments with Airflow 3.3 and 2.11
	$(BIN)/python -m dev.dist

soak: $(VENV)/.with-distributed ## everything that runs long: twenty nights on a distributed deployment (about an hour)
	$(BIN)/python -m soak.nights --seeds 1-20

bench: $(READY_BENCH) ## what a wait costs, beside its alternatives (about 10 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks

bench-from-trigger: $(READY_BENCH) ## what a wait costs without any worker process, beside its peers (about 20 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks.from_trigger

bench-failover: $(READY) ## how soon waits go on when a triggerer dies, how late they are decided (30 minutes; needs PostgreSQL)
	$(BIN)/python -m benchmarks.failover
	$(BIN)/python -m benchmarks.deadlines

bench-saving: $(READY_BENCH) ## what saving costs, and what other download tools do about faults (about 10 minutes)
	$(VENV_BENCH)/bin/python -m benchmarks.saving
	$(VENV_BENCH)/bin/python -m benchmarks.downloads

constraints: .uv/.ready ## choose the newest versions of everything again
	@for version in $(AIRFLOW_3) $(AIRFLOW_2); do \
		file=constraints/airflow-$${version%.*}.txt; \
		echo "$$file"; \
		echo "apache-airflow==$$version" | $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
			--group dev --group bench --group docs --group browser --group distributed --group dist --extra testing --no-header --no-annotate \
			--output-file "$$file" pyproject.toml - >/dev/null || exit 1; \
	done

clean: ## remove environments, caches and all other things that were made here
	rm -rf .uv $(VENV) $(VENV_2) $(VENV_BENCH) .demo build dist docs/_build *.egg-info .coverage* .hypothesis .*_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): .uv/.ready $(INPUTS) constraints/airflow-3.3.txt
	@echo 'Installing Airflow 3.3 and the tools into $(VENV) ...'
	@$(UV) venv --quiet --clear --python .uv/bin/python $(VENV)
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV) --group dev --editable '.[testing]' \
		--constraints constraints/airflow-3.3.txt
	@touch $@

$(READY_2): .uv/.ready $(INPUTS) constraints/airflow-2.11.txt
	@echo 'Installing Airflow 2.11 and the tools into $(VENV_2) ...'
	@$(UV) venv --quiet --clear --python .uv/bin/python $(VENV_2)
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV_2) --group dev --editable '.[testing]' \
		--constraints constraints/airflow-2.11.txt
	@touch $@

$(READY_BENCH): .uv/.ready $(INPUTS) constraints/airflow-3.3.txt
	@echo 'Installing Airflow 3.3 and the peers into $(VENV_BENCH) ...'
	@$(UV) venv --quiet --clear --python .uv/bin/python $(VENV_BENCH)
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV_BENCH) --group bench --editable '.[testing]' \
		--constraints constraints/airflow-3.3.txt
	@touch $@

# What only some targets need, on top: the dependency group of that name.
$(VENV)/.with-%: $(READY)
	@echo 'Installing the group $* into $(VENV) ...'
	@$(UV) pip install --quiet --compile-bytecode --python $(VENV) --group $* --constraints constraints/airflow-3.3.txt
	@touch $@

.uv/.ready: constraints/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed; name it with: make PYTHON=...' >&2; exit 1; }
	@echo 'Installing uv into .uv ...'
	@$(PYTHON) -m venv --clear .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check --requirement constraints/dev.txt
	@touch $@
