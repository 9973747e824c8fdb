"""Runs that are killed at any moment, as by a power cut: started again they end with the files of an undisturbed run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
sys.path += [{root!r}, {root!r} + "/microworld"]
sys.path.insert(0, {comfyui!r})
from comfy.cli_args import args
args.cpu = True
import comfyui_microworld, folder_paths, torch
torch.set_num_threads(1)
from compinv_core.__main__ import main
from compinv_core.cli.train import train_all

def started(name):
    process = os.fork()  # of what is imported already, which takes longest
    if not process:
        folder_paths.set_user_directory(f"{{name}}/user")
        sys.argv[1:] = ["train", f"{{name}}/config.toml"]
        os._exit(main())
    return process

def code(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def has_ended(process):
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

assert code(started("undisturbed")) == 0
moments = random.Random(0)
runs = Path("killed/user/compositional_inversion/runs")
# The last way, whose state is the largest, while that is being written for the first time; each when its state is there.
*others, last = sys.argv[1:]
kills = [*((way, f"my-{{way}}-*.pt") for way in others), (last, f".my-{{last}}-*.new"), (last, f"my-{{last}}-*.pt")]
for way, met in kills:
    process, begun = started("killed"), time.monotonic()
    while not list(runs.glob(met)) and time.monotonic() < begun + 100 and not has_ended(process):
        time.sleep(0.001 if met.startswith(".") else 0.01)
    time.sleep(moments.uniform(0, 0.2) if met.startswith("my") else 0)
    os.kill(process, signal.SIGKILL)
    print("killed", way, round(time.monotonic() - begun, 1), code(process), flush=True)
assert code(started("killed")) == 0
"""
WAYS = {
    "word": "",
    "keys": 'what = "keys and values"\nprior = "DCO"',
    "lora": 'what = "attention"\nrank = 4\nprior = "none"',
    "whole": 'what = "whole UNet"\nprior = "none"',
}
STEPS = 16  # the state is kept at the tenth


def test_runs_that_are_killed_end_with_the_same_files_byte_for_byte(base: Path, comfyui: Path, tmp_path: Path):
    """Every way at a random moment, with its optimiser, what it draws from and what it had learnt."""
    (tmp_path / "pictures").mkdir()
    for picture in sorted((base / "input" / "zippy").iterdir())[:2]:  # of each the foreground is searched for
        shutil.copy(picture, tmp_path / "pictures")
    (tmp_path / "train.py").write_text(PROGRAM.format(root=str(ROOT), comfyui=str(comfyui)))
    for name in ("undisturbed", "killed"):
        lines = [f'checkpoint = "{base}/models/checkpoints/microworld.safetensors"', 'output = "files"']
        for way, settings in WAYS.items():
            lines += [
                "[[concepts]]", f'placeholder = "my-{way}"', 'class_word = "car"', f'pictures = "{tmp_path}/pictures"',
                "resolution = 64", f"steps = {STEPS}", "batch = 2", "vectors = 1", "seed = 5", settings,
            ]  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text("\n".join(lines))
    command = [sys.executable, "train.py", *WAYS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("killed") and line.endswith("-9")]
    assert set(kills) == set(WAYS), done.stdout
    for way in WAYS:
        assert f'"my-{way}" resumes after step' in done.stderr, done.stdout + done.stderr
    undisturbed, killed = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "files").iterdir()}
        for name in ("undisturbed", "killed")
    )
    assert len(undisturbed) == 2 * len(WAYS) - 1  # an embedding each, and an adapter but for the word alone
    assert killed == undisturbed
    assert not list((tmp_path / "killed" / "user" / "compositional_inversion" / "runs").iterdir())
