# Everything that this project's people run by hand or in CI. `make` alone
# lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

FUZZTIME ?= 60s
SEEDS ?= 10000

# A process that ends under the race detector waits a second otherwise.
export GORACE ?= atexit_sleep_ms=0

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the commands into bin/
	go build -o bin/ ./cmd/modulate ./cmd/modulate-keeper ./workerd
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/modulate-keeper

.PHONY: check
check: lint ## The gate: lint, and the short tests with -race
	go test -race -short -vet=off ./...

# What is compiled for other platforms is thrown away, and need not be fast.
rough = -gcflags='all=-N -l'

.PHONY: lint
lint: ## Format, tidy go.mod, vet, staticcheck, other platforms
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "error: not gofmt'd:" $$out; exit 1; fi
	go mod tidy -diff
	go vet ./...
	go tool staticcheck ./...
	GOOS=darwin GOARCH=arm64 go vet $(rough) ./...
	GOOS=darwin GOARCH=amd64 go build $(rough) ./...
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build $(rough) -tags lambda.norpc -trimpath ./... # as the functions are

# quiet prints of what go test -v says a line for each package that is well, the
# tests that were skipped, and all that one said which is not. With CI=1 it
# fails if a test was skipped.
quiet = awk 'function end() { for (i = 1; i <= n; i++) print line[i]; n = 0; skips = "" } \
	/^(=== |PASS$$| *--- PASS)/ { next } \
	/^ *--- SKIP/ { skipped++; skips = skips (n && line[n] ~ /^ +[^ ]+\.go:/ ? line[n] "\n" : "") $$0 "\n" } \
	/^ok  \t|^\?   \t/ { printf "%s", skips; n = 0; skips = ""; if (/^ok/) print; fflush(); next } \
	{ line[++n] = $$0 } \
	/^FAIL\t/ { end(); fflush() } \
	END { end(); if (skipped && ENVIRON["CI"] == "1") { print "error: " skipped " tests were skipped"; exit 1 } }'

# whole are the packages with a test that is too slow under the race detector:
# it is cut short there, and done in full without it.
whole = ./internal/sim ./internal/store/sqlitestore ./internal/store/dynamostore ./functions/router/protocol

# Many tests of the first run wait; the second one computes meanwhile.
.PHONY: test
test: emulators sdks ## Every test, on emulated AWS too; with CI=1 a skipped test is a failure
	@go test -race -vet=off -count=1 -timeout 20m -v ./... 2>&1 | $(quiet) & \
	go test -vet=off -count=1 -timeout 20m -v $(whole) 2>&1 | $(quiet); whole=$$?; \
	wait $$! && exit $$whole

.PHONY: sim
sim: ## The simulation's gates: SEEDS (10,000) histories of 20 submissions, half as many of 12 workflows, replay, mutants
	go test ./internal/sim -count=1 -timeout 60m -v -seeds $(SEEDS)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (60s) each
	@{ grep -rnoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . || true; } | \
	while IFS=: read -r file _ name; do \
		echo "== $${name#func } in $$(dirname $$file)"; \
		go test $$(dirname $$file) -run '^$$' -fuzz "^$${name#func }\$$" -fuzztime $(FUZZTIME) </dev/null || exit 1; \
	done

.PHONY: gates
gates: emulators ## 20,000 new histories of the core; 200 in full length, of DynamoDB and of the protocol: 8 clients, 200 operations each
	go test ./internal/promise -count=1 -timeout 1h -rapid.seed=0 -rapid.checks=20000
	go test ./internal/store/dynamostore ./functions/router/protocol -count=1 -timeout 2h -v -run Linearizable -full

.PHONY: chaos
chaos: emulators ## Real processes under kill -9 and SIGSTOP
	CI=1 go test -race -count=1 -timeout 20m -v ./internal/chaos

.PHONY: keepers
keepers: ## The keepers' gates at full size: 100 kills under 200 scripts, 10,000 scripts in a row
	CI=1 go test -count=1 -timeout 30m -v ./internal/chaos -run TestWorkerdKilledUnderItsScripts -full
	CI=1 go test -count=1 -timeout 60m -v ./workerd/runner -run TestManyScriptsLeaveNothing -full

.PHONY: bench
bench: build ## Medians against a floor measured in the same run
	go build -o bin/ ./bench
	bin/bench

.PHONY: bench-sdks
bench-sdks: build sdks ## Calls through the Resonate SDK for Python on dev, and bare requests of its protocol
	@dir=$$(mktemp -d) && mkfifo $$dir/said || exit 1; \
	bin/modulate dev --listen 127.0.0.1:0 --machines cpu:1 --dir $$dir/store >$$dir/said 2>$$dir/log & dev=$$!; \
	trap 'kill $$dev; wait $$dev; rm -r $$dir' EXIT; \
	read -r _ _ url _ <$$dir/said || { cat $$dir/log; exit 1; }; \
	for python in .sdks/python-*/bin/python; do \
		echo "$${python#.sdks/}" && RESONATE_URL=$${url%,} $$python examples/modulate-resonate/bench.py || exit 1; \
	done
	go test ./examples/modulate-resonate -run '^$$' -bench Requests -count 5 | sed -n 's/^BenchmarkRequests.*op//p'

.PHONY: bill
bill: emulators ## What each kind of life sends to AWS, and its dollars per million
	go test ./bench -count=1 -run TestBill -v | sed -n 's/^    bill_test.go:[0-9]*: //p'

.PHONY: bench-large
bench-large: ## The same on a store of a million settled promises
	go run ./bench large

.PHONY: bench-lambda
bench-lambda: ## The router as a Lambda function, warm and cold, against a stub of AWS; the functions' zips
	go run ./bench lambda

.PHONY: vuln
vuln: ## Known vulnerabilities in what we depend on (needs the network)
	go tool govulncheck ./...

# ---- AWS. STAGE is one of samconfig.toml, MACHINE one of infra/machines; what
# their templates are told besides is in PARAMETERS.
STAGE ?= dev
MACHINE ?= cpu
PARAMETERS ?=
# What functions are built for: the default in the template, or the same value
# that the template is given.
ARCHITECTURE ?= $(shell sed -n '/^  Architecture:/,/Default:/s/.*Default: //p' template.yaml)

.PHONY: deploy
deploy: ## Build and deploy the stage STAGE (dev)
	sam build --config-env $(STAGE)
	sam deploy --config-env $(STAGE)

# An archive with what a machine needs, the same bytes from the same sources.
.PHONY: archives
archives: $(foreach arch,amd64 arm64,bin/workerd-$(arch).tar.gz) ## Build what machines install: workerd, keeper, CLI and unit, for both architectures

bin/workerd-%.tar.gz: FORCE
	@mkdir -p bin/linux-$*
	GOOS=linux GOARCH=$* CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/linux-$*/ ./workerd ./cmd/modulate-keeper ./cmd/modulate
	cp infra/workerd.service bin/linux-$*/
	tar -C bin/linux-$* --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
		-cf - workerd modulate-keeper modulate workerd.service | gzip -n >$@
.PHONY: FORCE
FORCE:

.PHONY: publish
publish: archives ## Put the archives into STAGE's bucket, print what its machines are told
	@bucket=$$(aws cloudformation describe-stacks --stack-name modulate-$(STAGE) \
		--query "Stacks[0].Outputs[?OutputKey=='Bucket'].OutputValue" --output text) || exit 1; \
	for arch in amd64 arm64; do \
		sum=$$(openssl dgst -sha256 -r bin/workerd-$$arch.tar.gz | cut -d' ' -f1) && \
		aws s3 cp --only-show-errors bin/workerd-$$arch.tar.gz s3://$$bucket/workerd/$$sum && \
		echo "$$arch WorkerdSha256=$$sum" || exit 1; \
	done

.PHONY: deploy-machine
deploy-machine: ## Deploy the machine MACHINE (cpu) of STAGE; PARAMETERS="Subnets=… WorkerdSha256=…", the latter from make publish
	sam deploy --config-file $(CURDIR)/samconfig.toml --config-env $(STAGE) \
		--template-file infra/machine.yaml --stack-name modulate-$(STAGE)-$(MACHINE) \
		--parameter-overrides $$(sed -n 's/^ *"\([A-Za-z0-9]*\)": "\(.*\)",\{0,1\}$$/\1=\2/p' infra/machines/$(MACHINE).json) \
		Stage=$(STAGE) $(PARAMETERS)

# What sam build calls for the functions of template.yaml.
FUNCTIONS = build-RouterFunction build-StatusFunction build-SweeperFunction
.PHONY: $(FUNCTIONS)
$(FUNCTIONS): build-%Function:
	GOOS=linux GOARCH=$(if $(filter x86_64,$(ARCHITECTURE)),amd64,arm64) CGO_ENABLED=0 go build \
		-tags lambda.norpc -trimpath -ldflags '-s -w' -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/$$(echo $* | tr A-Z a-z)

.PHONY: aws-up
aws-up: ## Start emulated AWS with the stacks and a worker for each machine; prints the API's URL
	@localstack/up.sh

.PHONY: aws-down
aws-down: ## End what aws-up started
	@localstack/down.sh

.PHONY: sdks
sdks: ## Install the Resonate SDKs into .sdks/: from PyPI for Python 3.12 or later, from npm
	@examples/modulate-resonate/install.sh

.PHONY: emulators
emulators: ## Install the AWS of a laptop into .emulators/: MiniStack, SAM, with Java DynamoDB Local and ElasticMQ
	@localstack/install.sh

.PHONY: traces
traces: ## Write the core's golden traces anew; read the diff
	go test ./internal/promise -run Traces -update
