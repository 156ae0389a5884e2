# Each target is a line of plain commands; make alone lists them.

GO ?= go
FUZZTIME ?= 1m

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

# The race detector watches all that shares memory. It leaves out the arithmetic
# of crypto, which shares none, and would take half of the tests' time. They wait
# more than they work, so eight run at a time.
test: ## everything that must hold: gofmt, vet, tests with the race detector, cross builds
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) test -race -gcflags='crypto/internal/fips140/...=-race=false' -parallel 8 -timeout 10m ./...
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null .
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null .
	GOOS=freebsd GOARCH=amd64 $(GO) build -o /dev/null .

fuzz: ## run each fuzzer for FUZZTIME (1m)
	@for f in $$($(GO) test -list '^Fuzz' . | grep ^Fuzz); do $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x . || exit 1; done

bench: ## print the benchmark figures
	P2PCHAT_FIGURES=1 $(GO) test -run TestFigures -bench . -benchmem -timeout 30m .

cover: ## print the share of statements that tests reach
	$(GO) test -coverprofile=cover.out ./... && $(GO) tool cover -func=cover.out | tail -1

.PHONY: help test fuzz bench cover
