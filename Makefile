# Every target first sees to it that the development host is there: ComfyUI, torch and the tools, in a cache outside the tree.
HOST = python3 scripts/host.py

.PHONY: demo test lint bench results world
demo:
	$(HOST) python scripts/demo.py

test: lint
	COMPINV_REQUIRE_HOST=1 $(HOST) --browser python -m pytest -q

lint:
	$(HOST) python -m ruff format --check .
	$(HOST) python -m ruff check .
	$(HOST) python -m pyright
	$(HOST) python -m pyright -p pyright-host.json

# A line for each goal of speed and memory, measured here and now; fails when one is missed.
bench:
	$(HOST) python benchmarks

# docs/RESULTS.md and docs/results.json from the records; what these lack is run first. An empty folder as RECORDS: everything
# anew, hours on a CPU; a stopped run goes on.
RECORDS = benchmarks/records
results:
	COMPINV_RECORDS=$(abspath $(RECORDS)) $(HOST) python benchmarks/results.py --readme

# Hours on a CPU. SPEC is a file like microworld/world.toml, OUT where its checkpoints go; a stopped run goes on.
SPEC = microworld/world.toml
OUT = world_output
PROCESSES = $(shell nproc)
FLAGS =
world:
	$(HOST) python -m microworld.make --world $(SPEC) --out $(OUT) --processes $(PROCESSES) $(FLAGS)
