# make bench   the main job, from nothing to a leaderboard
# make test    the tests
# make check   format, lint, types, import contract
# make compare-peers   our attacks beside other libraries' (half an hour)
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: bench test check constraints compare-peers clean

bench: $(INSTALLED)
	$(BIN)/bench run

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The environment is made anew when its pins or the project's requirements change. --no-compile: torch has thousands of
# modules that nothing here imports; Python compiles the others when they are first used.
$(INSTALLED): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

compare-peers: .venv-peers/.installed
	.venv-peers/bin/python -m benchmark.performance.peers.compare

# In an environment of their own: some peers ask for versions that would break ours, hence --no-deps.
PEERS := benchmark/performance/peers/requirements.txt
.venv-peers/.installed: constraints.txt pyproject.toml $(PEERS)
	$(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip install --quiet -c constraints.txt -e .
	.venv-peers/bin/python -m pip install --quiet --no-deps --no-build-isolation -r $(PEERS)
	touch $@

constraints:
	{ sed -n 1,2p constraints.txt; \
	  $(BIN)/pip freeze --all --exclude-editable --exclude pip | grep -v '^clustrbench' | sed 's/^torch==/torch===/'; \
	} > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf .venv .venv-peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
