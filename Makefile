# The front door: every target works from a fresh clone on Debian 12. `make help` lists them.
# Root is needed for what makes namespaces (demo, e2e) and for installing what is missing.

SHELL := /bin/sh
# rustup's own place comes first, so that a Rust which `setup` just installed is found.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
FAIRLEAD := $(TARGET)/release/fairlead
LAB := $(TARGET)/release/lab
# Where benches leave their tables.
PERF_DIR := $(or $(FAIRLEAD_PERF_DIR),target/perf)
# Crates that link DPDK; not default members.
DPDK_CRATES := -p dpdk-sys -p dpdk
SETUP := deploy/setup.sh
# Builds the appliance as it is shipped; with `-p lab`, the program that makes its lab, too.
RELEASE := $(CARGO) build --release -p fairlead --features fairlead/dpdk

.PHONY: help build demo demo-kubernetes demo-down test setup-test unit instructions dpdk-test e2e test-long bench bench-kubernetes bench-wire lint layers doc fuzz clean setup setup-build systemd-test container-test cluster kube-proxy e2e-kubernetes
# One after the other: they share cargo's locks, and what they build.
.NOTPARALLEL:

help: ## This list.
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

setup: ## Install what building and the lab need: packages, Rust, huge pages.
	@$(SETUP)

setup-build:
	@$(SETUP) build

build: setup-build ## The release binary, target/release/fairlead.
	$(RELEASE)

demo: setup ## A small data centre in namespaces, walked with real traffic. KEEP=1 leaves it running.
	$(RELEASE) -p lab
	@FAIRLEAD_BIN=$(FAIRLEAD) $(LAB) demo $(if $(KEEP),--keep)

demo-kubernetes: setup ## The same with Kubernetes itself, driven by kubectl (Go 1.26, once). KEEP=1 leaves it running.
	$(RELEASE) -p lab
	@assets=$$(tests/cluster/build.sh) && traefik=$$(tests/traefik/build.sh) && \
	 KUBEBUILDER_ASSETS=$$assets TRAEFIK=$$traefik FAIRLEAD_BIN=$(FAIRLEAD) $(LAB) demo kubernetes $(if $(KEEP),--keep)

demo-down: ## End demos that were kept.
	@$(LAB) down demo
	@$(LAB) down kubedemo

# All is installed first: some tests look at what there is.
test: setup ## Every test there is.
	@$(SETUP) count
	@tests/all.sh
	@echo "make test: all green"

setup-test: ## deploy/setup.sh where Rust is missing, too old, or cannot be had.
	@tests/setup.sh

unit: ## Tests that need neither DPDK, root nor a NIC.
	$(CARGO) test -q

dpdk-test: ## Tests of the DPDK wrappers and of the packet engine on virtual devices.
	$(CARGO) test -q $(DPDK_CRATES) -p dataplane -p fairlead -p perf --features dataplane/dpdk,dataplane/stages,fairlead/dpdk,perf/dpdk,perf/stages

e2e: setup ## End to end: real clients and servers through the appliance (root). FILTER=words narrows.
	$(RELEASE)
	FAIRLEAD_BIN=$(abspath $(FAIRLEAD)) $(CARGO) test -q --test e2e -- $(FILTER)

e2e-kubernetes: setup ## The same with Kubernetes itself: a real control plane, pods as real processes (root, Go 1.26). FILTER=words narrows.
	$(RELEASE)
	assets=$$(tests/cluster/build.sh) && traefik=$$(tests/traefik/build.sh) && \
	 KUBEBUILDER_ASSETS=$$assets TRAEFIK=$$traefik FAIRLEAD_BIN=$(abspath $(FAIRLEAD)) \
	 $(CARGO) test -q --test kubernetes -- $(FILTER)

systemd-test: setup ## The systemd unit as shipped, under a systemd in namespaces of its own (root).
	$(RELEASE)
	@FAIRLEAD_BIN=$(abspath $(FAIRLEAD)) tests/systemd.sh

container-test: setup-build ## What can be known of deploy/Containerfile without a container engine: its files, packages, libraries, drivers.
	$(RELEASE)
	@FAIRLEAD_BIN=$(abspath $(FAIRLEAD)) tests/container.sh

cluster: ## Kubernetes' control plane and an ingress controller for tests and demo, built from source and kept (Go 1.26). Minutes, once.
	@tests/cluster/build.sh
	@tests/traefik/build.sh

kube-proxy: setup ## Random cluster states, the real kube-proxy and Fairlead compared (root). STATES=100 SEED=1.
	FAIRLEAD_DIFF_STATES=$(or $(STATES),100) FAIRLEAD_DIFF_SEED=$(or $(SEED),1) $(CARGO) test -q --test kube_proxy

test-long: setup ## Soaks and big seed counts: an hour or so.
	PROPTEST_CASES=20000 $(CARGO) test --profile soak -q
	$(CARGO) test --profile soak -q -p dataplane --test hostile -- --ignored
	$(CARGO) test --release -q -p control -p tables --lib --test kube --test scale --test cost -- --ignored
	LAB_SOAK_SECONDS=1200 $(MAKE) --no-print-directory e2e
	E2E_LONG=1 E2E_OUTAGE_SECONDS=60 $(MAKE) --no-print-directory e2e-kubernetes
	$(MAKE) --no-print-directory kube-proxy STATES=1000 SEED=$$(date +%s)
	for round in 2 3 4 5; do $(MAKE) --no-print-directory e2e || exit 1; done

instructions: ## Instructions a packet, counted, against perf/instructions.tsv. WRITE=1 writes that file.
	@$(SETUP) count
	$(CARGO) run -q --release -p perf --bin instructions -- $(if $(WRITE),--write)

bench: setup-build ## Benches of the packet path, a table each, put together in docs/performance.md. QUICK=1 is short.
	$(CARGO) bench -p perf
	$(CARGO) bench -p perf --features stages --bench stages
	$(CARGO) run -q -p perf --bin report

bench-wire: ## Over memif against testpmd in the same run; its generator is perf/src/bin/pktgen.
	@$(SETUP) wire
	$(RELEASE)
	FAIRLEAD_BIN=$(abspath $(FAIRLEAD)) $(CARGO) bench -p perf --features dpdk --bench wire
	$(CARGO) run -q -p perf --bin report

bench-kubernetes: setup ## What changes of a real cluster cost, at a client and at 10,000 Services, beside kube-proxy (root, Go 1.26; half an hour).
	$(RELEASE) -p lab
	@assets=$$(tests/cluster/build.sh) && mkdir -p $(PERF_DIR) && \
	 KUBEBUILDER_ASSETS=$$assets FAIRLEAD_BIN=$(FAIRLEAD) $(LAB) figures > $(PERF_DIR)/kubernetes.md && \
	 KUBEBUILDER_ASSETS=$$assets $(CARGO) bench -p perf --features kubernetes --bench cluster
	$(CARGO) run -q -p perf --bin report

lint: setup-build ## Format, clippy, dependency policy.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -q -- -D warnings
	$(CARGO) clippy $(DPDK_CRATES) -p fairlead -p perf --features fairlead/dpdk,perf/dpdk,perf/kubernetes,perf/stages --all-targets -q -- -D warnings
	@if command -v gofmt >/dev/null; then test -z "$$(gofmt -l tests/cluster tests/traefik | tee /dev/stderr)"; fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny -L error check bans licenses sources; \
	 else echo "lint: cargo-deny is not installed; licences and sources were not checked (cargo install cargo-deny)"; fi

layers: ## Which crate may use which, who may name DPDK, who may write unsafe.
	@tests/layers.sh

doc: setup-build ## API documentation; warnings are errors.
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps -q

fuzz: setup-build ## Fuzz every target for FUZZ_SECONDS each (default 60).
	@tests/fuzz.sh $(or $(FUZZ_SECONDS),60)

clean: ## Remove what was built.
	$(CARGO) clean
