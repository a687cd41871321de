# make demo: see it work.  make test: all tests.  Both need root, and install what they need.
PYTHON ?= /usr/bin/python3
VENV ?= .venv
BED = tests/testbed/testbed
MINUTES ?= 10
# On both cores, each with a testbed (tests/conftest.py says what stays together); with one that broke, what comes after
# is not tried for an hour.
BESIDE = -n 2 --dist loadscope --no-loadscope-reorder --maxfail=10

.PHONY: help demo demo-down test unit chaos bench bench-large lint docs format clean

help:
	@echo "make demo       boot a Salt master and three hosts, and show files being synchronized (root)"
	@echo "make demo-down  end what make demo left running"
	@echo "make test       all tests: pure logic, Salt's loader, the promises on real hosts (root)"
	@echo "make unit       only the tests of the pure logic"
	@echo "make chaos      one fault after another while all hosts write: MINUTES=60 CHAOS_SEED=… (root)"
	@echo "make bench      measure it beside csync2 + lsyncd and Syncthing; writes docs/benchmarks.* (root, half an hour)"
	@echo "make bench-large  the same in a tree of 1,000,000 files (root, an hour, 30 GB)"
	@echo "make lint       ruff, mypy, yamllint, salt-lint"
	@echo "make docs       write docs/commands.md and docs/functions.md, draw docs/flows anew (root, to install graphviz)"

demo: root
	$(PYTHON) tests/demo/demo.py

demo-down: root
	TESTBED_NAME=demo $(BED) down

test: root $(VENV)/ready
	$(VENV)/bin/python -m pytest $(BESIDE) tests $(ARGS)

unit: $(VENV)/ready
	$(VENV)/bin/python -m pytest tests/unit $(ARGS)

chaos: root $(VENV)/ready
	CHAOS_MINUTES=$(MINUTES) $(VENV)/bin/python -m pytest -s tests/hosts/test_chaos.py -k follow $(ARGS)

bench: root $(VENV)/bench
	$(VENV)/bin/python tests/bench/bench.py $(ARGS)

bench-large: root $(VENV)/bench
	$(VENV)/bin/python tests/bench/bench.py --large $(ARGS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/yamllint --strict .
	$(VENV)/bin/salt-lint $$(find states -name '*.sls')

docs: $(patsubst %.dot,%.svg,$(wildcard docs/flows/*.dot))
	$(PYTHON) docs/commands.py

docs/flows/%.svg: docs/flows/%.dot
	@command -v dot >/dev/null || { apt-get -qq update && apt-get -qq install -y graphviz; }
	dot -Tsvg $< -o $@

format: $(VENV)/ready
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: root
root:
	@test "$$(id -u)" = 0 || { echo "This boots hosts, so it needs root: sudo make $(MAKECMDGOALS)" >&2; exit 2; }

# Salt and the test tools, apart from the system's Python.
$(VENV)/ready: setup.cfg
	@echo "making $(VENV) (about a minute, once) ..."
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get -qq update && apt-get -qq install -y python3-venv; } \
	  || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python tests/requirements.py | $(VENV)/bin/pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@

# What only the benchmark needs.
$(VENV)/bench: $(VENV)/ready
	$(VENV)/bin/python tests/requirements.py bench | $(VENV)/bin/pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@

clean: root
	for name in csyncsync demo test testgw0 testgw1 testgw2; do TESTBED_NAME=$$name $(BED) down; done
	rm -rf $(VENV) .pytest_cache .ruff_cache
