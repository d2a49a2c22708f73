# fleetmesh: `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# Labs of one machine are told apart by name: this clone's demo, unless LAB says otherwise.
LAB ?= demo-$(shell printf '%s' '$(CURDIR)' | sha256sum | cut -c1-6)
export LAB
# One command line for demo-shell, untouched by make: a dollar sign is the host's shell's.
override CMD := $(value CMD)
export CMD
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Progress is for people: what Python prints appears when it is printed.
export PYTHONUNBUFFERED := 1

UI_PORT ?= 8500
PYTHON := /usr/bin/python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
FLEETLAB := $(PYTHON) roles/lab/files/fleetlab
SSH := ssh -F /var/lib/fleetmesh-lab/$(LAB)/ssh_config
COLLECTION := .ansible/collections/ansible_collections/fleetmesh/mesh
VENV_STAMP := $(VENV)/.made-for-$(shell sha256sum pyproject.toml | cut -c1-12)
step = @printf '\n\033[1m== %s\033[0m\n' "$(1)"

PREREQUISITES := curl gcc git iproute2 libsystemd-dev mmdebstrap netcat-openbsd nftables \
  openssh-client pkg-config procps python3-dev python3-venv systemd-container wrk
# An independent client of the tests. A Node from elsewhere has its npm with it, and tolerates
# no other.
NODE := $(if $(shell command -v node),,nodejs) $(if $(shell command -v npm),,npm)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help prereqs venv image lab-up lab-down rollout tour demo demo-up demo-shell demo-ui demo-down \
  lint types sanity test-fast test-fleet test-fleet-acl test bench chaos clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16
	@echo
	@echo "This clone's lab is $(LAB); LAB=name chooses another."

prereqs: ## install the Debian packages that are missing
	@missing=(); \
	for package in $(PREREQUISITES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q ' installed$$' || missing+=($$package); \
	done; \
	if (( $${#missing[@]} )); then \
	  printf '\n\033[1m== Prerequisites: %s\033[0m\n' "$${missing[*]}"; \
	  apt-get update; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$${missing[@]}"; \
	fi

venv: $(VENV_STAMP) $(COLLECTION) ## make the Python environment (.venv)
	@:

$(VENV_STAMP):
	$(call step,Python environment in .venv (a minute the first time))
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off -e '.[dev]' \
	  | sed -u -n 's/^\(Collecting\|Building\|Installing\|Successfully\) \([^ ]*\).*/  \1 \2/p'
	@rm -f $(VENV)/.made-for-* && touch $@

# Roles and modules are addressed as fleetmesh.mesh.NAME from a checkout too.
$(COLLECTION):
	@mkdir -p $(dir $@) && ln -sfn ../../../.. $@

image: prereqs
	$(call step,Image of the hosts (built once; half a minute))
	@$(FLEETLAB) image >/dev/null

lab-up: prereqs venv image ## boot the lab's hosts
	$(call step,Lab $(LAB))
	@$(BIN)/ansible-playbook playbooks/lab_up.yml

lab-down: ## stop the lab's hosts and remove everything it made
	@$(FLEETLAB) down --lab $(LAB) >/dev/null

rollout: venv ## roll the mesh out to the lab's hosts
	$(call step,Rollout of Consul and fleetmesh over SSH)
	@$(BIN)/ansible-playbook playbooks/site.yml

tour: venv ## show on the running demo what the mesh does
	$(call step,Tour)
	@$(BIN)/python tools/tour.py

demo: ## everything, from nothing to a guided tour
	@start=$$SECONDS; \
	$(MAKE) prereqs; $(MAKE) venv; $(MAKE) lab-up; $(MAKE) rollout; $(MAKE) tour; \
	printf '\nReady after %d s. To look further:\n' $$((SECONDS - start)); \
	printf '  %s\n' \
	  'make demo-shell HOST=web1                        a root shell on a host' \
	  "make demo-shell HOST=web1 CMD='fleetmesh status' one command there" \
	  "make demo-ui                                     Consul's UI: http://127.0.0.1:$(UI_PORT)/ui" \
	  'make demo-down                                   remove it all'

demo-shell: ## a root shell on HOST=, or one command there with CMD=
	@[ -n "$(HOST)" ] || { echo "usage: make demo-shell HOST=web1 [CMD='...']" >&2; exit 2; }
	@[ -e /var/lib/fleetmesh-lab/$(LAB)/ssh_config ] \
	  || { echo "lab $(LAB) is not up: make demo" >&2; exit 2; }
	@grep -q '^Host $(HOST) ' /var/lib/fleetmesh-lab/$(LAB)/ssh_config \
	  || { echo "no host $(HOST) in lab $(LAB), but:" \
	    $$(sed -n 's/^Host \([^ *]*\) .*/\1/p' /var/lib/fleetmesh-lab/$(LAB)/ssh_config) >&2; exit 2; }
	@if [ -n "$$CMD" ]; then exec $(SSH) -T $(HOST) "$$CMD"; else exec $(SSH) -t $(HOST); fi

demo-ui: ## Consul's UI on a loopback port of this machine, until interrupted (UI_PORT=8500)
	@echo "http://127.0.0.1:$(UI_PORT)/ui until you press Ctrl-C"
	@$(SSH) -o ControlPath=none -o ExitOnForwardFailure=yes -N \
	  -L 127.0.0.1:$(UI_PORT):127.0.0.1:8500 consul1

demo-down: lab-down ## remove the demo and everything it made

lint: venv ## ruff, yamllint, ansible-lint
	$(call step,Lint)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/yamllint --strict .
	@PATH=$(BIN):$$PATH $(BIN)/ansible-lint

types: venv ## mypy --strict
	$(call step,Types)
	@$(BIN)/mypy
	@MYPYPATH=roles/lab/files $(BIN)/mypy -p fleetlab
	@$(BIN)/mypy roles/lab/files/app.py

sanity: venv ## ansible-test sanity over the collection's plugins
	$(call step,Sanity of the collection's plugins)
	@tools/sanity

test-fast: venv ## lint, types and every test that needs neither hosts nor Consul, in parallel
	@tools/run-tests fast

test-fleet: prereqs venv image ## the tests on real hosts, in a lab of their own
	@tools/run-tests fleet

test-fleet-acl: prereqs venv image ## the same with ACLs in Consul that deny by default
	@tools/run-tests fleet-acl

test: PREREQUISITES += $(NODE)
test: prereqs venv image ## everything: lint, types, all tests
	@tools/run-tests all

bench: venv ## the data plane beside Envoy, HAProxy, nginx (ARGS=--quick, ARGS=-h)
	@$(BIN)/python -m tests.bench $(ARGS)

# A lab beside the demo's, removed at the end: its name is the demo's with another prefix.
chaos: prereqs venv image ## faults under load on a fleet of its own (ARGS=--short, ARGS=-h)
	@LAB=chaos-$(patsubst demo-%,%,$(LAB)) $(BIN)/python -m tests.chaos $(ARGS)

clean: lab-down ## remove the lab, the environment and all caches of this clone
	@rm -rf .venv .ansible .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
