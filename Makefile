# Everything starts here: `make` lists what there is. Needs Debian 12 or 13, python3, git, and root or sudo.
# What the targets install: setup/install-packages (Debian), requirements.lock (Python, into .venv).

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=KEEP,WCCPD_LAB_DIR)
PYTEST_ARGS ?=

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: setup
setup: .venv/.complete wccpd/dataplane/ebpf/redirect.bpf.o ## install what tests and demo need: Debian packages, .venv

.PHONY: packages
packages:
	@$(SUDO) setup/install-packages

# Packages come first: python3-venv is one of them. Debian's answer costs no time once they are there.
.venv/.complete: requirements.lock pyproject.toml | packages
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

wccpd/dataplane/ebpf/redirect.bpf.o: .venv/.complete $(wildcard wccpd/dataplane/ebpf/program/*)
	$(PYTHON) -c 'import setup; setup.compile_program()'
	touch $@

.PHONY: lint
lint: setup ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: test
test: lint ## the whole test suite; what needs GRE devices runs in a VM where the kernel has none
	$(SUDO) $(PYTHON) -m pytest $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: setup ## hunt for datagrams that break codec or engine; SECONDS=600; what reaches new code joins the corpus
	$(PYTHON) -m tests.fuzz.hunt $(or $(SECONDS),600)

.PHONY: gobgpds
gobgpds: ## fetch the gobgpd of Debian 13 and unstable for the tests
	setup/other-gobgpds

.PHONY: storm
storm: setup ## 32 caches x 32 routers x 64 groups through losses, joins and departures; SECONDS=600
	WCCPD_STORM_FULL=1 WCCPD_STORM_SECONDS=$(or $(SECONDS),600) $(PYTHON) -m pytest -q tests/scenario/test_storm.py

.PHONY: bench
bench: setup ## measure against the goals; prints a table, writes build/bench.json
	@$(SUDO) $(PYTHON) -m bench

.PHONY: demo
demo: setup ## the whole architecture on this machine; KEEP=1 leaves it running
	@$(SUDO) $(PYTHON) -m lab demo $(if $(KEEP),--keep)

.PHONY: enter
enter: ## a shell on a node of the lab that KEEP=1 left running; NODE=router1
	@$(SUDO) $(PYTHON) -m lab enter $(NODE)

.PHONY: down
down: ## remove a lab that KEEP=1 left running
	@$(SUDO) $(PYTHON) -m lab down

.PHONY: manual
manual: setup ## write the manual pages and the JSON Schema anew from the texts in the code
	$(PYTHON) -m wccpd.manual

.PHONY: lock
lock: ## write requirements.lock anew from pyproject.toml
	CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/pip-compile --quiet --upgrade --extra dev --all-build-deps \
	  --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-emit-options --output-file requirements.lock pyproject.toml

.PHONY: clean
clean: ## remove everything that was built or installed into this folder
	$(SUDO) rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +
