# What a developer runs; `make` lists nothing more than these.
PYTHON = .venv/bin/python

.PHONY: setup test quick long gpu bench lint format types imports audit

setup:  ## environment with all that tests need
	python3 -m venv .venv && $(PYTHON) -m pip install -q -c constraints.txt -e ".[test]"

test:  ## everything but the long proofs
	$(PYTHON) -m pytest -n 2

quick:  ## unit tests only: no server, no subprocess experiments
	$(PYTHON) -m pytest -m "not prefect and not end_to_end and not chromium and not long and not gpu"

long:  ## the long proofs
	$(PYTHON) -m pytest -m long

gpu:  ## what a new GPU machine runs once: 8 minutes, no download
	$(PYTHON) -m tasks.gpu_check

bench:  ## speed and memory: tables and plots of docs/benchmarks.md; an hour on an idle machine (Linux)
	$(PYTHON) -m benchmarks

lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

imports:
	.venv/bin/lint-imports

audit:  ## known vulnerabilities of the tested versions; asks an advisory service, so not without a network
	python3 -m venv .venv/audit && .venv/audit/bin/pip install -q pip-audit && .venv/audit/bin/pip-audit --strict --no-deps -r constraints.txt
