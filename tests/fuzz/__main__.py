"""Makes damaged files of every kind and reads each through the pack's own door, in a process that may die of it.

    python scripts/host.py python tests/fuzz --files 100000 --out FOLDER    a stopped run goes on; faults are kept there
    python scripts/host.py python tests/fuzz --seed 123                     one file again, with its traceback

A fault is an error that is not one sentence of ours, more than 1 GB of memory, more than ten seconds of the processor, or a crash.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).parents[1])]

import package  # noqa: E402, F401 - the pack as one package

from fuzz.doors import file_of, read  # noqa: E402
from fuzz.work import Fault, fuzz  # noqa: E402

CHUNK = 1000


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description="Damaged files.")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("fuzz_output"))
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    if asked.seed is not None:
        with TemporaryDirectory() as folder:
            print(*read(asked.seed, Path(folder)))
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    log = asked.out / "chunks.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for start in range(len(done) * CHUNK, asked.files, CHUNK):
        counts, faults = fuzz(range(start, min(start + CHUNK, asked.files)))
        for fault in faults:
            keep(fault, asked.out)
        done.append({"counts": counts, "faults": [vars(fault) for fault in faults]})
        with log.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"{start + CHUNK} files, {sum(len(one['faults']) for one in done)} faults", flush=True)
    return summary(done)


def keep(fault: Fault, out: Path) -> None:
    kind, ending, data = file_of(fault.seed)
    (out / f"{fault.seed}-{kind}{ending}").write_bytes(data)
    with (out / "faults.jsonl").open("a") as file:
        file.write(json.dumps(vars(fault)) + os.linesep)


def summary(done: list[dict[str, object]]) -> int:
    counts = sum((Counter(one["counts"]) for one in done), Counter())
    faults = Counter(f"{fault['kind']}, {fault['what']}" for one in done for fault in one["faults"])
    for name, count in sorted([*counts.items(), *faults.items()]):
        print(f"{name}: {count}")
    print(f"{counts.total() + faults.total()} files, {faults.total()} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
