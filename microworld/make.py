"""A whole world from its spec, in one command that can be stopped and goes on: `make world`.

On two cores without bf16 arithmetic: autoencoder 30 min, latents 5 min, diffusion model 3 hours, judge 25 min. With it
(AMX, `--bf16`) a step of the autoencoder takes a third of the time, one of the diffusion model 0.72 of it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .spec import DEFAULT_WORLD, load_world

# A process a core; the allocator keeps what it has, or a third of the processor's time goes to the kernel.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints of the runs")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of one thread each")
    parser.add_argument(
        "--bf16", action="store_true", help="for the diffusion model: faster where the processor has AMX"
    )
    args = parser.parse_args()
    world = load_world(args.world)
    common = ["--world", str(args.world), "--out", str(args.out)]
    products = ["--bf16"] if args.bf16 else []
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes), "-m"]
    for step in (
        ["-m", "microworld.tokenizer", "--world", str(args.world)],
        ["-m", "microworld.pictures", "--world", str(args.world)],
        [*torchrun, "microworld.autoencoder", *common, *products],
        [*torchrun, "microworld.latents", *common],
        [*torchrun, "microworld.diffusion", *common, *products],
        ["-m", "microworld.checkpoint", *common],
        [*torchrun, "microworld.judge", *common],
        *([[*torchrun, "microworld.describer", *common]] if world.references else []),
        ["-m", "microworld.evaluate", "--world", str(args.world)],
    ):
        subprocess.run([sys.executable, *step], check=True, env={**os.environ, **ENVIRONMENT})


if __name__ == "__main__":
    main()
