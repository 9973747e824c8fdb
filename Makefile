# Every target first sees to it that the development host is there: ComfyUI, torch and the tools, in a cache outside the tree.
# HOST=folder is another ComfyUI, FRONT_END=1.58.1 another front end: each gets a Python of its own there.
RUN = python3 scripts/host.py $(if $(HOST),--comfyui "$(HOST)") $(if $(FRONT_END),--front-end "$(FRONT_END)")

.PHONY: demo test lint bench results world
demo:
	$(RUN) python scripts/demo.py

test: $(if $(HOST)$(FRONT_END),,lint)
	COMPINV_REQUIRE_HOST=1 $(RUN) --browser python -m pytest -q -n 2 --dist loadfile $(TESTS)

lint:
	$(RUN) python -m ruff format --check .
	$(RUN) python -m ruff check .
	$(RUN) python -m pyright
	$(RUN) python -m pyright -p pyright-host.json

# A line for each goal of speed and memory, measured here and now; fails when one is missed.
bench:
	$(RUN) python benchmarks

# docs/RESULTS.md and docs/results.json from the records; what these lack is run first. An empty folder as RECORDS: everything
# anew, hours on a CPU; a stopped run goes on.
RECORDS = benchmarks/records
results:
	COMPINV_RECORDS=$(abspath $(RECORDS)) $(RUN) python benchmarks/results.py --readme

# Hours on a CPU. SPEC is a file like microworld/world.toml, OUT where its checkpoints go; a stopped run goes on.
SPEC = microworld/world.toml
OUT = world_output
PROCESSES = $(shell nproc)
FLAGS =
world:
	$(RUN) python -m microworld.make --world $(SPEC) --out $(OUT) --processes $(PROCESSES) $(FLAGS)
