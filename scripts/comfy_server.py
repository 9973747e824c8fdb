"""A real ComfyUI server with this pack installed, for the demo and the tests. Runs with the host's Python."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PACK = Path(__file__).resolve().parent.parent
NAME = "compositional_inversion"  # the pack's folder in custom_nodes
LEFT_OUT = {".git", "demo_output", "world_output", "__pycache__", ".pytest_cache", ".ruff_cache"}


class ServerError(Exception):
    """One sentence for the user."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def install(source: Path, target: Path) -> None:
    """Put a folder of ours where ComfyUI looks; a link where links can be made."""
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy2(source, target)


class ComfyServer:
    """A server for the time of a `with`, on a base folder of its own (models, input, output, custom_nodes, user).

    A bare one has only the packs that are in its folder already.
    """

    def __init__(self, base: Path, port: int | None = None, bare: bool = False):
        self.base, self.port, self.bare = base, port or free_port(), bare
        self.log = base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ComfyServer":
        comfyui = Path(os.environ["COMFYUI_PATH"])
        for folder in ("models/checkpoints", "models/embeddings", "input", "output", "user", "temp"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        if not self.bare:
            self._install_pack_and_world()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise ServerError(f"Port {self.port} is taken; stop what uses it, or choose another port.")
        command = [sys.executable, str(comfyui / "main.py"), "--cpu", "--base-directory", str(self.base)]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--database-url", "sqlite:///:memory:"]
        if front_end := os.environ.get("COMPINV_FRONT_END"):
            command += ["--front-end-root", front_end]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait_until_up(600)  # a machine on which much else runs
        return self

    def _install_pack_and_world(self) -> None:
        install(PACK, self.base / "custom_nodes" / NAME)
        install(PACK / "microworld" / "comfyui_microworld", self.base / "custom_nodes" / "comfyui_microworld")
        checkpoint = PACK / "microworld" / "microworld.safetensors"
        if checkpoint.exists():
            install(checkpoint, self.base / "models" / "checkpoints" / checkpoint.name)

    def _wait_until_up(self, seconds: float) -> None:
        assert self.process is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])
                raise ServerError(f"ComfyUI stopped while starting; the end of {self.log} says: {tail}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        self.close()
        raise ServerError(f"ComfyUI did not answer within {seconds:.0f} seconds; see {self.log}.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def fetch(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(f"ComfyUI refused {path}: {error.read().decode(errors='replace')}") from error

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path) or b"null")

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a graph in API form; its id. Raises ServerError with ComfyUI's reasons when it is refused."""
        return json.loads(self.fetch("/prompt", {"prompt": prompt}))["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 1200, on_poll: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The history entry of a graph that has ended, in success or not: see `status` and `outputs` in it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status", {}).get("completed") is not None:
                return entry
            if self.process is not None and self.process.poll() is not None:
                raise ServerError(f"ComfyUI stopped while working; see {self.log}.")
            on_poll()
            time.sleep(0.25)
        raise ServerError(f"ComfyUI did not finish within {seconds:.0f} seconds; see {self.log}.")

    def run(self, prompt: dict[str, Any], on_poll: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Queue and wait; the outputs by node id. Raises ServerError with the node's own sentence on failure."""
        entry = self.wait(self.queue(prompt), on_poll=on_poll)
        if entry["status"]["status_str"] != "success":
            raise ServerError(failure(entry))
        return entry["outputs"]

    def interrupt(self) -> None:
        self.fetch("/interrupt", {})

    def picture(self, image: dict[str, str]) -> bytes:
        """The bytes of an image that a graph's outputs name."""
        return self.fetch("/view?" + urllib.parse.urlencode(image))


def failure(entry: dict[str, Any]) -> str:
    """What went wrong in a graph that ended in failure."""
    for kind, message in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{message['node_type']}: {message['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return "interrupted"
    return "unknown"
