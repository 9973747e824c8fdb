"""The server's sentences when it cannot start; no ComfyUI is needed for them."""

import socket
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ComfyServer, ServerError


def test_a_taken_port_is_one_sentence(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} is taken"), ComfyServer(tmp_path / "base", port):
            pass


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "main.py").write_text("raise SystemExit('no such device')\n")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"stopped while starting.*no such device"), ComfyServer(tmp_path / "base"):
        pass
