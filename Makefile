# make help lists the targets.

export CGO_ENABLED ?= 0
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
BIN      = bin
BINARIES = $(BIN)/sapflow-hub $(BIN)/sapflow-agent
ARCHES   = amd64 arm64 arm

# The race detector needs a C compiler; without one the tests run all the same.
CC_FOUND := $(shell command -v gcc 2>/dev/null || command -v cc 2>/dev/null)
ifneq ($(CC_FOUND),)
TEST = CGO_ENABLED=1 $(GO) test -race
else
TEST = $(GO) test
endif

.PHONY: help build demo test lint cross check bench bench-codec bench-log bench-history bench-link bench-gateways powerloss wear fuzz golden walk kills clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(BINARIES) ## build bin/sapflow-hub and bin/sapflow-agent

$(BIN)/sapflow-%: FORCE
	@mkdir -p $(BIN)
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./$*

demo: build ## a hub and two gateways at work, cut, killed and revoked
	$(GO) -C shared/bench run . demo -bin $(CURDIR)/$(BIN)

test: ## all tests, with the race detector where there is a C compiler
ifeq ($(CC_FOUND),)
	@echo "no C compiler found: testing without the race detector (Debian: apt install gcc)"
endif
	$(TEST) ./...
	$(GO) -C shared/bench vet ./...
	$(GO) -C shared/bench test ./...

lint: ## vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@out=$$($(GO) tool gofumpt -l agent hub shared); if [ -n "$$out" ]; then echo "not formatted (go tool gofumpt -w):"; echo "$$out"; exit 1; fi

cross: ## build for linux amd64, arm64 and arm v7
	@for arch in $(ARCHES); do \
		echo "linux/$$arch"; \
		GOOS=linux GOARCH=$$arch GOARM=7 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/linux-$$arch/ ./agent ./hub || exit 1; \
	done

check: cross lint test demo ## all that CI runs

bench: build ## figures beside peers, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . figures -bin $(CURDIR)/$(BIN)

bench-codec: ## bytes and time a point beside other codecs, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . codec

bench-log: build ## the logs at both ends beside plain JetStream and SQLite, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . log -bin $(CURDIR)/$(BIN)

bench-history: build ## 90 days of history beside plain JetStream, SQLite and Parquet, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . history -bin $(CURDIR)/$(BIN)

bench-link: build ## cost of a line beside NATS and MQTT, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . link -bin $(CURDIR)/$(BIN)

bench-gateways: build ## what gateways cost a hub: enrolment, keys, revocation, storms, into shared/bench/RESULTS.md
	$(GO) -C shared/bench run . gateways -bin $(CURDIR)/$(BIN)

powerloss: build ## pull the plug at 500 moments, beside peers, into shared/bench/RESULTS.md; needs root and FUSE
	$(GO) -C shared/bench run . powerloss -bin $(CURDIR)/$(BIN)

wear: build ## bytes written to flash a day, beside peers, into shared/bench/RESULTS.md; needs root, FUSE, e2fsprogs
	$(GO) -C shared/bench run . wear -bin $(CURDIR)/$(BIN)

fuzz: ## fuzz the decoders for a minute each
	$(GO) test ./shared/point -fuzz FuzzPayload -fuzztime 60s -fuzzminimizetime 10x
	$(GO) test ./shared/frame -fuzz FuzzDecode -fuzztime 60s -fuzzminimizetime 10x
	$(GO) test ./shared/frame -fuzz FuzzColumn -fuzztime 60s -fuzzminimizetime 10x

walk: ## 40,000 random walks over the link protocol
	$(GO) test ./shared/link -run TestWalk -walks 40000

kills: ## the trace through 200 kills, two full stores and a full disk
	$(GO) test ./shared/e2e -run 'TestKills$$' -kills 200 -timeout 30m -v

golden: ## rewrite the goldens; review the diff
	$(GO) test ./shared/point ./shared/frame ./shared/link -update

include deploy/deploy.mk

clean: ## remove what was built
	rm -rf $(BIN) dist
