# Everything here sets itself up on a clean Debian 12 with Go, make and git. Binaries go to bin/.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN   := $(CURDIR)/bin
TOOLS := $(BIN)/tools
STEP  := @deploy/tools/step

# REGARD_CASES is an optional directory of exchange cases (what a provider answered to which question) that some tests
# replay. Without it they say that they are skipped.
REGARD_CASES ?= $(wildcard ../shared/sandbox)
ifneq ($(REGARD_CASES),)
export REGARD_CASES := $(abspath $(REGARD_CASES))
endif

# The tests that speak to a real Vault find its server here.
export REGARD_DEVVAULT := $(BIN)/devvault

# Those of Trillian on PostgreSQL find its stock log server here.
export REGARD_TRILLIAN := $(BIN)/trillian_log_server

# Those of the witnesses find somebody else's witness here.
export REGARD_LITEWITNESS := $(TOOLS)/litewitness

# Those of the sign-in find somebody else's identity provider here.
export REGARD_DEVOIDC := $(BIN)/devoidc
# Those of pages find the verifier of browsers and axe-core here.
export REGARD_VERIFIER := $(BIN)/verifier
export REGARD_AXE := $(TOOLS)/axe.min.js

# Stamp versions where git can say them; a checkout that git refuses to read must still build.
VCS := $(shell git rev-parse -q --verify HEAD >/dev/null 2>&1 && echo auto || echo false)

# Build, vet and staticcheck with the same flags, so that each package is compiled once for all three.
PLAIN := CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) -trimpath'

# What the race detector doesn't look into would be most of the work: SQLite translated from C, which shares nothing with us but through locks, and breaks the rules for unsafe pointers
# that checkptr knows; and the arithmetic on Curve25519. Most tests wait for disks, epochs and other processes: more of them run at once than there are cores.
RACE := -race '-gcflags=modernc.org/sqlite/lib=-race=false -d=checkptr=0' '-gcflags=modernc.org/libc=-d=checkptr=0' \
	'-gcflags=filippo.io/edwards25519/...=-race=false' '-gcflags=crypto/internal/fips140/edwards25519/...=-race=false' -parallel 4

# A test that fails beside others may have met a slow disk or a busy port: up to two that fail are run once more, alone, with both results shown. A data race, a panic, a test that
# hangs, and what fails twice, are failures.
AGAIN := --format standard-quiet --format-hide-empty-pkg --hide-summary skipped --rerun-fails=1 --rerun-fails-max-failures 2 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race

FUZZTIME   ?= 30s
TESTFLAGS  ?=
BENCHFLAGS ?=
SOAKFLAGS  ?=

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: build ## play the main line on this machine: nothing to install, invented people
	$(BIN)/regard demo --dir demo-data

demo-vault: build devvault ## the same with a real Vault server (test and demo build)
	$(BIN)/regard demo --dir demo-data --vault=$(BIN)/devvault

demo-cluster: build devvault trillian-server ## the same on two brokers that share PostgreSQL (Debian's package), Trillian and a real Vault
	@deploy/tools/need pg_createcluster:postgresql
	$(BIN)/regard demo --cluster --dir demo-data --vault=$(BIN)/devvault --trillian=$(BIN)/trillian_log_server

build: ## build the commands into bin/, and the verifier of browsers into bin/verifier/
	$(STEP) 'build' env $(PLAIN) go build -buildvcs=$(VCS) -o $(BIN)/ ./cmd/...
	$(STEP) 'build the verifier of browsers' deploy/tools/verifier $(BIN)/verifier

test: lint rego-test devvault trillian-server devoidc witness-tools axe build ## all checks and tests, as continuous integration runs them
	@deploy/tools/need gcc:gcc,libc6-dev chromium:chromium pg_createcluster:postgresql openssl:openssl systemd-analyze:systemd setpriv:util-linux curl:curl ip:iproute2
	$(STEP) 'tests with the race detector' env CGO_ENABLED=1 $(TOOLS)/gotestsum $(AGAIN) --packages ./... -- $(RACE) -vet=off -timeout 20m $(TESTFLAGS)
	$(STEP) 'tests of the log over Trillian on PostgreSQL' env REGARD_TEST_ENGINE=postgresql $(PLAIN) go test -vet=off -timeout 20m $(TESTFLAGS) ./ledger
	$(STEP) 'demo' $(BIN)/regard demo --once --dir $(BIN)/demo-data
	$(STEP) 'demo with Vault' $(BIN)/regard demo --once --dir $(BIN)/demo-data --vault=$(BIN)/devvault
	$(STEP) 'demo of a cluster' $(BIN)/regard demo --cluster --once --dir $(BIN)/demo-data --vault=$(BIN)/devvault --trillian=$(BIN)/trillian_log_server
	$(STEP) 'units of systemd' deploy/tools/units
	$(STEP) 'go vet (manifests)' env -C deploy/tools/manifests $(PLAIN) go vet ./...
	$(STEP) 'manifests of containers, Kubernetes, Prometheus, Grafana' env -C deploy/tools/manifests $(PLAIN) go test -count 1 ./... # what it reads is outside its module, so a result isn't to be remembered
	$(STEP) 'go vet (Vault test server)' env -C deploy/devvault $(PLAIN) go vet ./...
	$(STEP) 'tests of the Vault test server' env -C deploy/devvault $(PLAIN) go test ./...
	$(STEP) 'go vet (OpenID Connect test server)' env -C deploy/devoidc $(PLAIN) go vet ./...

lint: lint-tools rego-tools ## formatting, links, vet, staticcheck, gosec, and the same for Rego
	$(STEP) 'gofmt' deploy/tools/formatted
	$(STEP) 'links between files' deploy/tools/links
	$(STEP) 'go vet' env $(PLAIN) go vet ./...
	$(STEP) 'go vet (verifier of browsers)' env GOOS=js GOARCH=wasm $(PLAIN) go vet ./cmd/regard-verifier
	$(STEP) 'staticcheck' env $(PLAIN) $(TOOLS)/staticcheck ./...
	$(STEP) 'gosec' env $(PLAIN) $(TOOLS)/gosec
	$(STEP) 'opa check, opa fmt' deploy/tools/rego-lint $(TOOLS)/opa

rego-test: rego-tools ## tests of the policy bundle, by plain opa
	$(STEP) 'opa test' $(TOOLS)/opa test --fail-on-empty policy/bundle

bench: build ## measure throughput and latency, proofs and their checking
	@deploy/tools/need chromium:chromium
	$(STEP) 'build benchmarks' env $(PLAIN) go test -vet=off -c -o $(BIN)/bench/ ./ledger ./ledger/fsck ./broker/portal/verifier
	@$(BIN)/regard-bench -tests $(BIN)/bench $(BENCHFLAGS)

bench-cluster: build devvault ## measure two brokers on PostgreSQL, Trillian and Vault, beside one alone
	@deploy/tools/need pg_createcluster:postgresql
	@$(BIN)/regard-bench -cluster -vault $(BIN)/devvault $(BENCHFLAGS)

screenshots: build ## take the pictures of docs/screenshots anew
	@deploy/tools/need chromium:chromium
	$(STEP) 'screenshots' env REGARD_SCREENSHOTS=$(CURDIR)/docs/screenshots go test -tags screenshots -run TestScreenshots -count 1 ./broker/command

soak: ## run the long tests until they end (SOAKFLAGS='-count 3' and the like)
	$(STEP) 'soak' go test -tags soak -run Soak -timeout 0 -v $(SOAKFLAGS) ./...

fuzz: ## run every fuzz target for FUZZTIME (30s) each
	@deploy/tools/fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf $(BIN)

# Go knows better than make what is up to date.
devvault:
	$(STEP) 'build the Vault test server' env -C deploy/devvault $(PLAIN) go build -buildvcs=false -o $(BIN)/devvault .

devoidc:
	$(STEP) 'build the OpenID Connect test server' env -C deploy/devoidc $(PLAIN) go build -buildvcs=false -o $(BIN)/devoidc .

trillian-server:
	$(STEP) 'build Trillian'"'"'s log server' env -C deploy/trillian $(PLAIN) go build -buildvcs=false -o $(BIN)/ tool

witness-tools:
	$(STEP) 'build litewitness' env -C deploy/tools/witness $(PLAIN) go build -buildvcs=false -o $(TOOLS)/ tool

axe:
	@deploy/tools/need curl:curl
	$(STEP) 'fetch axe-core' deploy/tools/axe $(REGARD_AXE)

lint-tools:
	$(STEP) 'build staticcheck, gosec, gotestsum' env -C deploy/tools/lint $(PLAIN) go build -buildvcs=false -o $(TOOLS)/ tool

rego-tools:
	$(STEP) 'build opa' env -C deploy/tools/rego $(PLAIN) go build -buildvcs=false -o $(TOOLS)/ tool

.PHONY: help demo demo-vault demo-cluster build test lint rego-test bench bench-cluster soak screenshots fuzz clean axe devvault devoidc trillian-server lint-tools rego-tools witness-tools
