# Two commands matter: `make demo` shows the product, `make test` checks it. Everything lives in .venv and .demo.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := dpc_jupyter tests benchmarks hatch_build.py

.PHONY: demo demo-hub test check bench lab clean screenshots notebooks docs

# What the JupyterLab extension is built from; hatch_build.py builds it where it is older.
FACE := hatch_build.py $(shell find labextension/*.json labextension/src labextension/schema labextension/style dpc_jupyter/jupyter/widgets -type f ! -name '*.py*')

.venv/.base: pyproject.toml $(FACE)
	@echo "making .venv, building the JupyterLab extension (half a minute the first time), installing dpc-jupyter ..."
	@command -v npm >/dev/null || echo "npm is missing: install Node.js 20 or newer to get the JupyterLab extension; going on without it."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dpc-jupyter needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --reinstall-package dpc-jupyter --editable . --group notebook
	@touch $@

.venv/.test: .venv/.base
	@echo "installing what the tests need ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[hub]' --group test
	@touch $@

.venv/.hub: .venv/.base
	@echo "installing what a hub needs ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[hub]'
	@touch $@

.venv/.lab: .venv/.base
	@echo "installing JupyterLab ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group lab
	@touch $@

# Root on Debian gets a Chromium; elsewhere an installed one is used, and without any the browser tests say that they did not run.
.venv/.browser: .venv/.test
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  test "$$(id -u)" = 0 && command -v apt-get && echo "installing Chromium for the browser tests ..." && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	} >/dev/null 2>&1 || echo "no browser could be installed"
	@touch $@

# The tests start a Redis, a PostgreSQL and a coturn of their own, and lay cables between network namespaces. Root of a container gets
# what is missing from Debian; where systemd runs it is not installed, because that would also start it; and the tests say what they skipped.
SERVICES := redis-server:redis-server initdb:postgresql turnserver:coturn ip:iproute2
.venv/.services: .venv/.test
	@PATH="$$PATH:$$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')"; \
	for each in $(SERVICES); do command -v $${each%%:*} >/dev/null || missing="$$missing $${each#*:}"; done; \
	test -z "$$missing" || { \
	  test "$$(id -u)" = 0 && test ! -d /run/systemd/system && command -v apt-get >/dev/null && \
	  echo "installing$$missing for the tests ..." && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	} || echo "could not be installed:$$missing; the tests of it will NOT run"
	@touch $@

demo: .venv/.base  ## a host in one process, a notebook in another, an answer between them
	@$(BIN)/dpc-jupyter demo

demo-hub: .venv/.hub  ## a host without a port and an asker in networks of their own, who meet over a hub by WebRTC
	@$(BIN)/dpc-jupyter demo --hub

lab: .venv/.lab  ## JupyterLab beside a running demo host
	@$(BIN)/dpc-jupyter demo --lab

check: .venv/.test  ## lint and types only
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check .venv/.browser .venv/.services  ## everything, within 15 minutes
	@if command -v npm >/dev/null; then npm test --prefix labextension; else echo "no npm: the extension's own tests did NOT run"; fi
	@$(BIN)/python -m pytest -m long -p no:cacheprovider -rs tests/node/reaching/test_cables.py >.venv/long.out 2>&1 & long=$$!; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs || { \
	  echo "once more, what failed while two ran side by side:"; \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; \
	}; ended=$$?; \
	wait $$long; long_ended=$$?; echo "the five minutes:"; cat .venv/long.out; test $$ended = 0 && test $$long_ended = 0

screenshots: .venv/.test  ## pictures of every view for docs/images, of this build
	PYTHONPATH=tests $(BIN)/python -m browser.screenshots

notebooks: .venv/.test  ## run 02 to 04 and keep their outputs
	$(BIN)/python tests/running_notebooks.py

# Mermaid draws the diagrams in the reader's browser, from the site's own copy; without npm a diagram is shown as its text.
MERMAID := 11
.venv/.docs: .venv/.base
	@echo "installing what the documentation needs ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	@mkdir -p .venv/mermaid && cd .venv/mermaid && npm pack --silent mermaid@$(MERMAID) >name && \
	  tar xzf "$$(cat name)" --strip-components=2 package/dist/mermaid.min.js && rm "$$(cat name)" name || \
	  echo "npm could not fetch mermaid: diagrams will be shown as text."
	@touch $@

docs: .venv/.docs  ## the documentation as a site in build/site; a warning or a broken link is an error
	@$(BIN)/sphinx-build -E -j auto -W --keep-going -q -b html docs build/site
	@echo "build/site/index.html"

bench: .venv/.test  ## ours beside what labs use today; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
