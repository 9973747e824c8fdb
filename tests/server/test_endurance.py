"""A slice of benchmarks/endurance.py: a few runs of every node in one server leave neither tensors nor another stock image."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from endurance import WARM_UP, endure, growth, read

ROUNDS = WARM_UP + 2
MB = 1e6


def test_runs_of_every_node_in_one_server_hold_no_more_tensors_from_round_to_round(tmp_path: Path, comfyui: Path):
    assert endure(tmp_path / "base", tmp_path / "rounds.jsonl", ROUNDS), "stock sampling changed"
    rounds = read(tmp_path / "rounds.jsonl")
    assert [one.number for one in rounds] == list(range(ROUNDS))
    assert growth(rounds, "tensors") <= 0
    assert growth(rounds, "tensor_bytes") < 4096  # some rounds hold a vector more, 384 bytes; which is not known
    assert growth(rounds, "memory") < 20 * MB  # of what glibc gives back late
