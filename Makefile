# Two commands do all the set-up: `make demo` and `make test`. Each works first, on a clean clone.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast lint ui clean stop constraints format docs bench-peers bench-quality bench-speed bench-planted

demo: $(STAMP) ## a year of a real grocer, from raw drops to published tables
	$(BIN)/seqline demo

# Two workers share two cores: on small data more threads cost more than they bring.
PYTEST := POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

test: $(STAMP) ## the test suite, two workers
	$(PYTEST) -n 2 --dist loadfile

test-fast: $(STAMP) ## for the loop: all but the slow tests, under three minutes
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(STAMP) ## the Dagster UI on the instance of the demo
	exec $(BIN)/seqline ui

stop: ## stop the embedded storage
	if [ -x $(BIN)/seqline ]; then $(BIN)/seqline storage stop; fi

clean: stop ## remove what the demo made: storage, models, Dagster history (not the environment)
	rm -rf .seqline .tmp_dagster_home_* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find dagster_home -mindepth 1 ! -name dagster.yaml -delete

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## renew what is generated in docs/: the reference of the tables, the map of the files
	$(BIN)/python -m seq_ml.schema.reference
	$(BIN)/python -m tests.file_map

PEERS_DIR ?= .venv-peers

bench-peers: $(addprefix $(PEERS_DIR)/,replay rectools recbole) ## RePlay, RecTools, RecBole, each in its own environment

bench-quality: $(STAMP) ## ours and the simple models beside the peers' saved outcomes; PEERS=1 runs the peers too
	$(BIN)/python -m benchmarks.quality.run build/bench-quality --peers $(PEERS_DIR) $(if $(PEERS),--with-peers)

bench-speed: $(STAMP) ## training and scoring speed, ours and the fastest peers in turns
	$(BIN)/python -m benchmarks.quality.speed build/bench-quality --peers $(PEERS_DIR)

bench-planted: $(STAMP) ## logs with a planted sequential signal: how much of what can be known is found
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m benchmarks.planted

$(PEERS_DIR)/%: benchmarks/quality/peers/%.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install -q --disable-pip-version-check -r $< || { rm -rf $@; exit 1; }
	touch $@

# Pins: install the lower bounds' newest versions into a fresh environment and freeze them.
constraints:
	rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	.venv-pins/bin/pip install -q "torch==2.13.0"
	.venv-pins/bin/pip install -q -e ".[dev]"
	.venv-pins/bin/pip freeze --exclude-editable | grep -v '^seqline' | sed 's/^torch @.*/torch==2.13.0/; s/^\(torch==[^+]*\)+cpu/\1/' > constraints.txt
	rm -rf .venv-pins

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is missing: install it, or name yours with make PYTHON=python3 $(MAKECMDGOALS)"; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)
