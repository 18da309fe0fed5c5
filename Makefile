# Everything that this project's people run by hand or in CI. `make` alone
# lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

FUZZTIME ?= 60s
SEEDS ?= 10000

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the commands into bin/
	go build -o bin/ ./cmd/modulate ./workerd

.PHONY: check
check: ## The gate: format, vet, staticcheck, other platforms, short tests with -race, tidy go.mod
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "error: not gofmt'd:" $$out; exit 1; fi
	go mod tidy -diff
	go vet ./...
	go tool staticcheck ./...
	GOOS=darwin GOARCH=arm64 go vet ./...
	GOOS=darwin GOARCH=amd64 go build ./...
	GOOS=linux GOARCH=arm64 go build ./...
	go test -race -short ./...

# quiet prints what go test -v says but for what went well, and fails if a test
# was skipped.
quiet = awk '/^ *--- SKIP/ { skipped++ } !/^(=== |PASS$$| *--- PASS)/ { print } \
	END { if (skipped) { print "error: " skipped " tests were skipped"; exit 1 } }'

.PHONY: test
test: ## Every test: simulation, chaos and CLI scripts too; a skipped test is a failure
	@CI=1 go test -race -count=1 -timeout 20m -v ./... 2>&1 | $(quiet)
	@CI=1 go test -count=1 -timeout 20m -v ./internal/sim ./internal/promise ./internal/store/sqlitestore 2>&1 | $(quiet)

.PHONY: sim
sim: ## The simulation's gate: SEEDS (10,000) histories of 20 submissions, replay, mutants
	go test ./internal/sim -count=1 -timeout 60m -v -seeds $(SEEDS)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (60s) each
	@{ grep -rnoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . || true; } | \
	while IFS=: read -r file _ name; do \
		echo "== $${name#func } in $$(dirname $$file)"; \
		go test $$(dirname $$file) -run '^$$' -fuzz "^$${name#func }\$$" -fuzztime $(FUZZTIME) </dev/null || exit 1; \
	done

.PHONY: chaos
chaos: ## Real processes under kill -9 and SIGSTOP
	CI=1 go test -race -count=1 -timeout 20m -v ./internal/chaos

.PHONY: bench
bench: ## Medians against a floor measured in the same run
	go run ./bench

.PHONY: bench-large
bench-large: ## The same on a store of a million settled promises
	go run ./bench large

.PHONY: vuln
vuln: ## Known vulnerabilities in what we depend on (needs the network)
	go tool govulncheck ./...

.PHONY: emulators
emulators: ## Install the AWS of a laptop into .emulators/: MiniStack, SAM, with Java DynamoDB Local and ElasticMQ
	@localstack/install.sh

.PHONY: traces
traces: ## Write the core's golden traces anew; read the diff
	go test ./internal/promise -run Traces -update
