# Trailproof: every chore of the project. `make help` lists them.
#
# The work is done by cargo and by the scripts in .ci; this file only names it. One profile
# (release) is used everywhere, so that RocksDB is compiled once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
CARGO_TARGET_DIR ?= target
DATA ?= ./trailproof-data
LISTEN ?= 127.0.0.1:8473

.PHONY: help setup build run test kafka bench bench-kafka faults soak fmt lint check clean-data

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## install what the build needs and is missing (Debian; nothing is done where all is there)
	@.ci/setup

build: setup ## leave the program in target/release/trailproof
	$(CARGO) build --release --locked

run: build ## build, then run the main job: one folder ($(DATA)), short cycles, http://$(LISTEN)
	$(CARGO_TARGET_DIR)/release/trailproof run --dev --data $(DATA) --listen $(LISTEN)

test: setup ## every test: Rust, then the independent checks in Python
	$(CARGO) test --release --workspace --locked
	.ci/independent

kafka: setup ## a scratch Apache Kafka on free ports, in the foreground, until Ctrl-C
	@.ci/kafka run

bench: setup ## the benchmarks: a table, and target/bench.json
	.ci/bench

bench-kafka: setup ## whole processes on Kafka beside a plain consumer; into target/bench.json
	@.ci/kafka fetch >/dev/null
	$(CARGO) bench --profile release --locked --bench kafka

faults: build ## exactly once on a real Kafka: 100,000 traces, 33 faults, about ten minutes
	.ci/cluster faults

soak: build ## half an hour on Kafka and S3 with an outage and a full disk (root: it mounts a tmpfs)
	.ci/cluster soak

fmt: ## format the sources
	$(CARGO) fmt --all

lint: setup ## clippy, warnings are errors
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

check: setup ## type-check everything, build nothing
	$(CARGO) check --release --workspace --all-targets --locked

clean-data: ## remove the data folder of `make run`
	rm -rf -- $(DATA)
