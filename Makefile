# Penstock. `make` alone says what there is. Everything runs by plain cargo too; this file only knows the order.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# What the tests judge against where it is at hand: expectations that others recorded (see docs/testing.md).
CONFORMANCE ?= ../shared/conformance

.PHONY: help demo test test-offline conformance conformance-wire bench bench-updates bench-shadow bench-peers bench-memif bench-compare bounds bounds-renew readme-figures readme-figures-check lint deny fmt build build-release deps clean-lab

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s $$'\t'

demo: deps build-release ## two nodes, pods, policy, a Service and the overlay on real packets (root)
	target/release/demo

test: deps build ## every test, those in network namespaces included (root)
	@test "$$(id -u)" = 0 || { echo "make test needs root: tests in network namespaces are part of it (or: make test-offline)" >&2; exit 1; }
	@deploy/deps.sh dpdk
	$(with-conformance) cargo test --workspace --no-fail-fast

test-offline: ## what needs no root: everything but the network namespaces
	$(with-conformance) cargo test --workspace --exclude tests --exclude afxdp-driver
	$(with-conformance) cargo test -p tests --lib --test layering --test conformance

conformance: ## conformance cases through the tables: our own, and others' where they are at hand (CASES="PATH…" ARGS="--filter ports")
	cargo run --quiet -p tests --bin conformance -- $(ARGS) $(CASES)

conformance-wire: deps build ## the same on real packets, of others' a sample of every kind (root)
	cargo run --quiet -p tests --bin conformance -- --wire --sample $(ARGS) $(CASES)

bench: ## criterion: parse, flow look-up, policy, Maglev, the whole turn of a worker
	cargo bench -p benches

bench-updates: ## what a change of a large cluster's state costs, and what it costs the packets
	cargo run --release -p benches --bin bench-updates

bench-shadow: ## what a shadow generation costs the packets: with one and without, by turns in one run
	cargo run --release -p benches --bin bench-shadow

bench-peers: deps build-release ## one worker with all of it on against testpmd, the kernel, nftables and Open vSwitch (root; PEERS="--only testpmd")
	@deploy/deps.sh dpdk ovs
	target/release/bench-peers $(PEERS)

bench-memif: deps ## one worker with all of it on against DPDK testpmd in macswap, between two memifs, in one run (root)
	deploy/deps.sh dpdk
	cargo run --release -p benches --bin bench-memif

bench-compare: ## the pipeline of this tree against BASE's (a git revision), by turns in one run: BASE=HEAD~1 (ROWS="full/16k miss" ROUNDS=9)
	@test -n "$(BASE)" || { echo "make bench-compare BASE=REVISION: which revision?" >&2; exit 2; }
	cargo run --quiet -p benches --bin bench-compare -- --base "$(BASE)" $(if $(ROUNDS),--rounds $(ROUNDS)) $(ROWS)

bounds: ## instructions and allocations a packet, counted by callgrind, held to benches/bounds.toml
	deploy/deps.sh build bounds
	cargo run --release --quiet -p benches --bin bounds

bounds-renew: ## write benches/bounds.toml anew, by what is counted now (some rows alone: ROWS="full/16k miss")
	deploy/deps.sh build bounds
	cargo run --release --quiet -p benches --bin bounds -- --renew $(ROWS)

readme-figures: ## take the last runs' figures into docs/bench and write README.md's section on performance from them
	cargo run --quiet -p benches --bin readme-figures -- --collect

readme-figures-check: ## README.md's section on performance says what docs/bench says
	cargo run --quiet -p benches --bin readme-figures -- --check

lint: deps deny ## formatting, clippy, docs, layering, licences: warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

deny: ## licences, sources and duplicates of every dependency
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --all-features check licenses bans sources

fmt: ## format everything
	cargo fmt --all

# penstockd is built by itself: beside the others cargo would give it their features, and Kubernetes with them.
build:
	cargo build --bins -p dataplane
	cargo build --bins -p agent-api -p pktgen

build-release:
	cargo build --release --bins -p dataplane
	cargo build --release --bins -p agent-api -p pktgen -p tests

deps: ## install what is missing: Debian packages, the BPF file system, Rust components
	@deploy/deps.sh build lab

clean-lab: ## remove namespaces of runs that were killed (each next run does so by itself)
	@for name in $$(ip netns list | awk '/^penstock-(demo|it|conf|wire|harness|bench|peers|memif|pktgen)/ {print $$1}'); do \
	  ip netns pids $$name | xargs -r kill -9; ip netns del $$name && echo "removed $$name"; done

# Our own cases, and others' where they are at hand.
CASES ?= tests/cases $(wildcard $(CONFORMANCE)/netpol/*.json)

with-conformance = $(if $(wildcard $(CONFORMANCE)),PENSTOCK_CONFORMANCE=$(abspath $(CONFORMANCE)))
