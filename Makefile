# ipOS: everything that a newcomer, an operator or CI runs. `make` alone lists it.

CARGO ?= cargo
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?= all
SOAK_MINUTES ?= 30
SOAK_SEED ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build demo test test-unit test-lab soak bench bench-quick baseline lint clean-lab

help: ## this list
	@echo "ipOS: make TARGET"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14 | sed 's/^/  /'

setup: ## install what is missing (Debian 12 and later, as root); says what it installs
	deploy/setup

build: ## build the release binaries: ipos-appliance, ipos-board and ipos-pktgen in target/release
	$(CARGO) build --release --locked -p ipos-appliance -p ipos-board -p ipos-pktgen

demo: setup build ## set up, build, and show it at work in a lab of two boards (DEMO_ARGS="--port af_xdp --memory no-huge")
	deploy/demo $(DEMO_ARGS)

test: setup build test-unit test-lab bench-quick ## set up, build, and run every test

test-unit: build ## the tests that need no lab: in files, properties, packets, fuzz targets
	IPOS_BIN_DIR="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release" $(CARGO) test --locked --workspace --exclude ipos-tests

test-lab: build ## the tests in the lab, with real clients and servers (TEST_ARGS=name runs those that match)
	@deploy/lab status | grep -q '^no lab is up' || { echo "a lab is up: make clean-lab"; exit 1; }
	@trap 'deploy/lab down >/dev/null' EXIT; trap 'exit 130' INT TERM; \
	set -x; $(CARGO) test --locked -p ipos-tests -- --test-threads=1 $(TEST_ARGS)

soak: build ## traffic of every kind while boards, agents and appliance come and go (SOAK_MINUTES=30 SOAK_SEED=n; see tests/README.md)
	@deploy/lab status | grep -q '^no lab is up' || { echo "a lab is up: make clean-lab"; exit 1; }
	@trap 'deploy/lab down >/dev/null' EXIT; trap 'exit 130' INT TERM; set -x; \
	SOAK_MINUTES="$(SOAK_MINUTES)" SOAK_SEED="$(SOAK_SEED)" $(CARGO) run --locked -p ipos-tests --bin ipos-soak

bench: build ## measure everything against its baselines: a table, and perf/results (BENCH_ARGS="p1 p3 --runs 9"; see perf/README.md)
	$(CARGO) build --release --locked -p ipos-perf
	@$(MAKE) --no-print-directory baseline || echo "bench: goes on without capsule: it could not be built (see above)"
	"$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/ipos-bench" $(BENCH_ARGS)

bench-quick: build ## show that every bench still runs, with tiny sizes; its figures mean nothing
	$(CARGO) build --release --locked -p ipos-perf
	"$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/ipos-bench" --quick

baseline: ## build the bench's baseline capsule, apart from all else (see perf/capsule-baseline)
	$(CARGO) build --release --locked --manifest-path perf/capsule-baseline/Cargo.toml \
		--target-dir "$${CARGO_TARGET_DIR:-$(CURDIR)/target}"

lint: ## formatting, clippy, rustdoc, licences, scripts; all warnings denied
	deploy/setup lint
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path perf/capsule-baseline/Cargo.toml
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	$(CARGO) deny --locked check licenses bans sources
	@$(CARGO) deny --locked check advisories || echo "lint: advisories could not be checked, or found something (see above); not failing"
	deploy/check-scripts

clean-lab: ## take the lab down, whatever state it is in
	deploy/lab down
