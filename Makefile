# Everything a user types. The work of getting an interpreter and packages is in scripts/provision.
.POSIX:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help run install test soak fuzz sanitize races bench bench-eviction bench-metering bench-patterns bench-store-ops bench-views peers test-tools check format lock clean

PROVISION := scripts/provision
TOOLS := .venv-check/bin
# What is checked, of what is there.
PYTHON_CODE := $(wildcard setup.py cacheserver tests benchmarks examples deploy/*.py deploy/grafana/*.py scripts/*.py)
SHELL_CODE := scripts/provision scripts/peers scripts/test-tools scripts/debian-packages scripts/container-check scripts/sanitize scripts/races deploy/trim-interpreter .ci/run $(wildcard scripts/*.sh)

export PYTHON

help: ## show this list
	@echo 'usage: make TARGET [ARGS="..."] [PYTHON=interpreter]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

run: install ## start the server on 127.0.0.1:8080; ARGS="--port 9000 --threads 4"
	@exec .venv/bin/cacheserver serve $(ARGS)

install: ## find or get a free-threaded Python, make .venv/bin/cacheserver
	@$(PROVISION) install

test: install ## the whole suite, free-threaded and with the GIL; ARGS="-k name"
	@export CACHESERVER_TEST_WORDS; \
	CACHESERVER_TEST_WORDS=$$($(PROVISION) words) || unset CACHESERVER_TEST_WORDS; \
	run() { echo "== test: $$($$1 -VV)"; $$1 -X faulthandler -m pytest $(ARGS); }; \
	run .venv/bin/python || exit; \
	if .venv/bin/python -c 'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))'; then \
		gil=$$($(PROVISION) install-gil) || exit; \
		if [ -n "$$gil" ]; then run "$$gil"; else echo '== test: not run with the GIL'; fi; \
	fi

bench: install ## the benchmarks, beside the peers that are installed; ARGS="--quick"
	@$(PROVISION) bench-tools
	@status=0; for part in http store memory startup; do \
		.venv-bench/bin/python -m benchmarks.$$part $(ARGS) || status=1; \
	done; exit $$status

bench-eviction: install ## hit ratios of the eviction policies; ARGS="--trace PATH"
	@$(PROVISION) bench-tools
	@$(PROVISION) oracle-tools
	@.venv-bench/bin/python -m benchmarks.eviction $(ARGS)

bench-metering: install ## what it costs a GET to count, time and sample it; ARGS="--rounds 31"
	@$(PROVISION) bench-tools
	@.venv-bench/bin/python -m benchmarks.metering $(ARGS)

bench-patterns: install ## what the locking patterns cost; ARGS="--threads 4 --only locks"
	@$(PROVISION) bench-tools
	@mkdir -p benchmarks/results
	@.venv-bench/bin/python -m cacheserver.patterns --output benchmarks/results/patterns.json \
		--plot benchmarks/results/patterns.png $(ARGS)

bench-store-ops: install ## memory, pauses, expiry, clear and the like; ARGS=--full for millions of entries
	@$(PROVISION) bench-tools
	@status=0; for part in accounting pauses whole; do \
		.venv-bench/bin/python -m benchmarks.$$part $(ARGS) || status=1; \
	done; exit $$status

bench-views: install ## a view's read and put, against another revision; ARGS="--before REVISION"
	@$(PROVISION) bench-tools
	@.venv-bench/bin/python -m benchmarks.views $(ARGS)

soak: install ## everything at once for minutes, and nothing may be wrong; ARGS="--seconds 600"
	@.venv/bin/python -m benchmarks.soak $(ARGS)

fuzz: install ## mutated requests to the fast path and to the app; ARGS="--requests 100000 --seed 7"
	@.venv/bin/python -m tests.fuzz $(ARGS)

sanitize: ## the tests and the fuzzing with the compiled parts watched by sanitizers
	@scripts/sanitize $(ARGS)

races: install ## threads that do everything at once, watched by ThreadSanitizer; ARGS=300 for seconds
	@scripts/races $(ARGS)

peers: ## install what the benchmarks compare with, from Debian: Redis, memcached, nginx
	@scripts/peers

test-tools: ## install what some tests need, from Debian: Prometheus, Chromium
	@scripts/test-tools

check: install ## format, lint, types, import order, locks, shell scripts
	@$(PROVISION) check-tools
	@check() { echo "== check: $$*"; "$$@" || { echo "== check: failed: $$*" >&2; exit 1; }; }; \
	check $(TOOLS)/ruff format --check --quiet $(PYTHON_CODE); \
	check $(TOOLS)/ruff check --quiet $(PYTHON_CODE); \
	check $(TOOLS)/mypy $(PYTHON_CODE); \
	PATH=$(TOOLS):$$PATH; \
	check cython-lint cacheserver; \
	check $(TOOLS)/lint-imports --no-cache --no-logo; \
	check $(PROVISION) lock-check; \
	check $(TOOLS)/shellcheck $(SHELL_CODE); \
	echo '== check: all passed'

format: ## put the code in order
	@$(PROVISION) check-tools
	@$(TOOLS)/ruff format $(PYTHON_CODE)
	@$(TOOLS)/ruff check --fix $(PYTHON_CODE)


lock: ## write requirements/*.txt anew from pyproject.toml; ARGS=--upgrade for newer versions
	@$(PROVISION) lock $(ARGS)

clean: ## remove what make made here (the cache folder and figures of benchmarks stay)
	@rm -rf .venv .venv-sanitize .venv-sanitize-gil .venv-bench .venv-check .venv-gil .venv-oracle .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find cacheserver -name '*.so' -exec rm -f {} +
	@find $(PYTHON_CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
