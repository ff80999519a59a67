# The front door. Everything real is in meson.build, tools/ and tests/.
SHELL := /bin/bash
BUILD ?= build
export OPENSANDBOX_BUILD := $(abspath $(BUILD))
PYTEST = $(BUILD)/venv/bin/python -m pytest -p no:cacheprovider

.DEFAULT_GOAL := help
.PHONY: help deps deps-test build build-test install quickstart stop run test test-unit test-e2e test-sdk test-all sanitize fuzz lint \
	bench bench-check leak-check crash-check quickstart-check isolation-check hostile-check contract differential test-clients schemathesis test-docker test-podman test-engine-restart defects images bench-docker vectors soak execd-empty-root docs-check test-egress egress-fail-closed clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what build and run need (Debian, Ubuntu)
	tools/deps.sh run

deps-test: deps ## install what lint and tests need as well
	tools/deps.sh test $(BUILD)/venv

$(BUILD)/release/build.ninja:
	meson setup $(BUILD)/release --buildtype=release -Doptimization=2 -Dtests=false -Dbench=false -Dfailpoints=false

build: $(BUILD)/release/build.ninja ## the programs, optimised: build/release/src/...
	@ninja -C $(BUILD)/release

$(BUILD)/test/build.ninja:
	meson setup $(BUILD)/test --buildtype=debugoptimized
	@ln -sf $(BUILD)/test/compile_commands.json compile_commands.json

build-test: $(BUILD)/test/build.ninja ## programs and tests, with debug information
	@ninja -C $(BUILD)/test

install: build ## into DESTDIR and prefix /usr/local
	meson install -C $(BUILD)/release --no-rebuild

quickstart: ## install, build, start a server, run a command and a Python program in a sandbox
	@tools/deps.sh run
	@$(MAKE) -s build >$(BUILD).log 2>&1 || { cat $(BUILD).log; rm -f $(BUILD).log; exit 1; }; rm -f $(BUILD).log
	@python3 tools/quickstart.py start

stop: ## end the quickstart server and remove what it made
	@python3 tools/quickstart.py stop

run: build ## the server in the foreground with CONFIG=file
	$(BUILD)/release/src/server/opensandbox-server $(if $(CONFIG),--config $(CONFIG))

test: deps-test build-test ## unit, component, e2e without the slow ones, and a little fuzz; at most 12 minutes
	@CHECK_QUICK=1 FUZZ_SECONDS=1 python3 tools/check.py unit component e2e fuzz

test-unit: deps-test build-test ## unit and component tests only
	@python3 tools/check.py unit component

test-e2e: build-test ## real programs and official clients; ARGS=... for pytest
	@python3 tools/check.py e2e

test-sdk: deps-test build-test ## official Python and JavaScript clients against real sandboxes
	@python3 tools/check.py sdk

test-all: deps-test build-test ## what CI runs: test, sanitizers, faults, checks in short form
	@CHECK_SHORT=1 python3 tools/check.py unit component e2e fuzz sanitize soak leak crash quickstart engine_restart

sanitize: deps-test ## unit tests under ASan and UBSan
	@python3 tools/check.py sanitize

fuzz: deps-test ## every fuzz target, SECONDS=600 each
	@FUZZ_SECONDS=$(or $(SECONDS),600) python3 tools/check.py fuzz

vectors: deps-test build-test ## the malformed requests and Appendix A of the execd contract, one line each
	@python3 tools/check.py vectors

soak: deps-test build-test ## 10,000 commands, uploads, terminals and dropped connections in one execd leave nothing behind
	@python3 tools/check.py soak

execd-empty-root: deps-test build-test ## execd runs where there is nothing else
	@python3 tools/check.py empty_root

contract: deps-test build-test ## the OpenAPI documents against tables and real replies, on both runtimes
	@$(PYTEST) -c tests/e2e/pytest.ini tests/e2e/test_contract.py $(ARGS)
	@cat $(BUILD)/contract-*.txt

differential: deps-test build-test ## the same requests to ours and to the reference server; each difference has its line in docs/compatibility.md
	@python3 tools/check.py differential

test-clients: deps-test build-test ## official clients of every registry that answers, a line each
	@$(BUILD)/venv/bin/python tests/checks/clients_check.py

schemathesis: deps-test build-test ## generated requests from our own document; EXAMPLES=150 an operation, SEED=random
	@$(BUILD)/venv/bin/python tests/checks/schemathesis_check.py $(or $(EXAMPLES),150) $(SEED)

test-docker: deps-test build-test ## the docker runtime on a private dockerd, and the lifecycle and client tests of all runtimes on it
	@python3 tools/check.py docker

test-podman: deps-test build-test ## the same tests on a private Podman, with root and without
	@python3 tools/check.py podman

test-engine-restart: deps-test build-test ## an engine that is killed and stopped ten times under load, with live restore and without
	@python3 tools/check.py engine_restart

defects: deps-test build-test ## the tests of docs/runtimes.md's table of the reference's defects, a line for each
	@python3 tools/check.py defects

images: build ## our execd and egress images, into the engine of DOCKER_HOST
	@packaging/images/build.sh $(BUILD)/release/src/execd/execd $(BUILD)/release/src/egress/egress

bench-docker: deps-test build ## create on dockerd beside the engine's own create and start
	@python3 bench/docker.py

leak-check: deps-test build-test ## nothing is left after 100 sandboxes
	@python3 tools/check.py leak

crash-check: deps-test build-test ## kill -9 at each store write and at random moments
	@python3 tools/check.py crash

isolation-check: deps-test build-test ## what a sandbox can reach, with a control run
	@python3 tools/check.py isolation

hostile-check: deps-test build-test ## hostile images beside a canary tree
	@python3 tools/check.py hostile

test-egress: deps-test build-test ## network policy: names, addresses, API, and the adversarial cases by number
	@python3 tools/check.py egress

egress-fail-closed: deps-test build-test ## worker, supervisor and rules are taken away; a counter on the far side stays at zero
	@python3 tools/check.py egress_closed

quickstart-check: deps-test ## quickstart twice from a clean clone, then stop
	@python3 tools/check.py quickstart

lint: deps-test build-test ## format, clang-tidy, cppcheck, dependency law, banned functions, size budgets, headers
	@tools/lint.sh

bench: deps-test build ## measure; writes build/bench.json
	@python3 bench/bench.py run

bench-check: deps-test build ## measure what is missing and compare with the targets
	@python3 bench/bench.py check

clean: ## remove the build directory
	rm -rf $(BUILD) compile_commands.json
