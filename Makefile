# Two commands matter: `make demo` shows the product, `make test` checks it. Everything lives in .venv and .demo.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := dpc_jupyter tests benchmarks

.PHONY: demo test check bench lab clean

.venv/.base: pyproject.toml
	@echo "making .venv and installing dpc-jupyter ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dpc-jupyter needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group notebook
	@touch $@

.venv/.test: .venv/.base
	@echo "installing what the tests need ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group test
	@touch $@

.venv/.lab: .venv/.base
	@echo "installing JupyterLab ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group lab
	@touch $@

demo: .venv/.base  ## a host in one process, a notebook in another, an answer between them
	@$(BIN)/dpc-jupyter demo

lab: .venv/.lab  ## JupyterLab beside a running demo host
	@$(BIN)/dpc-jupyter demo --lab

check: .venv/.test  ## lint and types only
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything, within 15 minutes
	$(BIN)/python -m pytest

bench: .venv/.test  ## ours beside what labs use today; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
