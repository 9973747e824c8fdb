"""Reads files in a child process, which may hang, crash or take all memory."""

import json
import os
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .doors import kind_of, read, valid_files

SECONDS = 10  # of the processor, for a file
LONGEST = 300  # by the clock, for what waits for ever
MEMORY = 2**30  # bytes beyond what the process had before
ADDRESSES = 6 * 2**30  # bytes beyond that; what is asked for and not used


@dataclass(frozen=True)
class Fault:
    seed: int
    kind: str
    what: str  # "raw error", "memory", "hang" or "crash"
    told: str = ""


def fuzz(seeds: Sequence[int]) -> tuple[Counter[str], list[Fault]]:
    """How many files of each kind were read and refused, and what went wrong with the others."""
    counts, faults = Counter[str](), list[Fault]()
    valid_files()  # before the fork
    left = list(seeds)
    with TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        while left:
            told.write_text("")
            child = os.fork()
            if not child:
                try:
                    _child(left, told, Path(folder))
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            lines = [json.loads(line) for line in told.read_text().splitlines()]
            for line in lines:
                if "fault" in line:
                    faults.append(Fault(**line["fault"]))
                else:
                    counts[line["count"]] += 1
            left = left[len(lines) :]
            if left:
                number = os.WTERMSIG(status)
                what = "hang" if number in (signal.SIGPROF, signal.SIGALRM) else "crash"
                faults.append(Fault(left[0], kind_of(left[0]), what, f"ended by signal {number}"))
                left = left[1:]
    return counts, faults


def _child(seeds: Sequence[int], told: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    had = _of_process("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (had + ADDRESSES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with told.open("a") as out:
        for seed in seeds:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, LONGEST)
            out.write(json.dumps(_read(seed, folder)) + "\n")
            out.flush()


def _read(seed: int, folder: Path) -> dict[str, object]:
    kind = kind_of(seed)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _of_process("VmRSS")
    with TemporaryDirectory(dir=folder) as own:
        try:
            was_read = read(seed, Path(own))[1]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
            return {"fault": {"seed": seed, "kind": kind, "what": "raw error", "told": told}}
    used = _of_process("VmHWM") - before
    if used > MEMORY:
        return {"fault": {"seed": seed, "kind": kind, "what": "memory", "told": f"{used / 2**20:.0f} MB"}}
    return {"count": f"{kind} {'read' if was_read else 'refused'}"}


def _of_process(name: str) -> int:
    """Bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
