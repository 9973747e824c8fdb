"""The set-up script, with the slow part, installing, replaced."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import host
import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv("COMPINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path / "cache"


def made(folder: Path, _: Any = None) -> None:
    (folder / "ComfyUI").mkdir()
    (folder / "ComfyUI" / "main.py").touch()


def test_a_host_is_made_once(cache: Path, monkeypatch: Any):
    calls: list[Path] = []
    monkeypatch.setattr(host, "make_host", lambda folder, _: (calls.append(folder), made(folder)))
    assert host.host() == host.host()
    assert len(calls) == 1
    assert host.host()[0] == host.PINNED.cache_folder() / "ComfyUI"


def test_a_half_finished_host_is_made_again(cache: Path, monkeypatch: Any):
    def broken(folder: Path, _: Any) -> None:
        made(folder)
        raise host.HostError("no network")

    monkeypatch.setattr(host, "make_host", broken)
    with pytest.raises(host.HostError):
        host.host()
    assert not (host.PINNED.cache_folder() / "ready").exists()
    monkeypatch.setattr(host, "make_host", made)  # would fail on what the first left
    assert (host.host()[0] / "main.py").exists()


def test_another_requirement_is_another_folder(cache: Path, monkeypatch: Any):
    before = host.PINNED.cache_folder()
    monkeypatch.setattr(host, "TORCH", ["torch==1.0"])
    assert host.PINNED.cache_folder() != before


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder that looks like ComfyUI's."""
    folder = tmp_path / "other"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("comfyui-frontend-package==1.49.6\ntorch\n")
    return folder


def test_another_comfyui_or_front_end_gets_a_python_of_its_own_and_is_used_where_it_is(
    cache: Path, other: Path, monkeypatch: Any
):
    asked: list[Any] = []
    monkeypatch.setattr(host, "make_host", lambda folder, wanted: (asked.append(wanted), link(folder, wanted)))

    def link(folder: Path, wanted: Any) -> None:
        (folder / "ComfyUI").symlink_to(wanted.comfyui or other)

    wanted = [host.PINNED, host.Wanted(other), host.Wanted(other, "1.58.1"), host.Wanted(None, "1.58.1")]
    pythons = {host.host(one)[1] for one in wanted}
    assert len(pythons) == 4 and asked == wanted
    assert host.host(wanted[1])[0] == other
    (other / "requirements.txt").write_text("torch\n")
    host.host(wanted[1])
    assert asked[4:] == [wanted[1]]


def test_only_the_front_end_is_put_in_place_of_comfyui_s_own(other: Path):
    assert host.Wanted(other).requirements(other) == ["comfyui-frontend-package==1.49.6", "torch"]
    assert host.Wanted(other, "1.58.1").requirements(other) == ["torch", "comfyui-frontend-package==1.58.1"]


def test_another_folder_that_is_no_comfyui_is_refused(cache: Path, tmp_path: Path):
    with pytest.raises(host.HostError, match="not a ComfyUI folder"):
        host.host(host.Wanted(tmp_path))


def test_a_second_process_waits_for_the_first(cache: Path):
    """Both find the host that one of them made."""
    script = (
        "import sys, time, pathlib; sys.path.append(sys.argv[1]); import host\n"
        "def make(folder, wanted):\n"
        "    time.sleep(1)\n"
        "    (folder / 'ComfyUI').mkdir()\n"
        "    print('made')\n"
        "host.make_host = make\n"
        "host.host()\n"
    )
    command = [sys.executable, "-c", script, str(Path(host.__file__).parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert sorted(said) == ["", "made\n"]


def test_a_failed_download_is_one_sentence(cache: Path, tmp_path: Path):
    with pytest.raises(host.HostError, match=r"failed; see the end of .*setup\.log, then run this again"):
        host.install(Path(sys.executable), tmp_path / "setup.log", "--no-index", "no-such-package-anywhere")


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(host.HostError, match="not a ComfyUI folder"):
        host.host()


def test_a_python_without_torch_is_refused(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PYTHON", "/bin/false")
    with pytest.raises(host.HostError, match="COMFYUI_PYTHON"):
        host.host()


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_package_manager_that_is_busy_is_waited_for(tmp_path: Path, monkeypatch: Any, succeeds: bool):
    """apt itself waits for its lock when it is told how long; without that it fails at once."""
    said = tmp_path / "said"
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {said}\nexit {0 if succeeds else 100}\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(host.shutil, "which", lambda name: None if name == "chromium" else str(apt))
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    if succeeds:
        host.need_browser()
    else:
        with pytest.raises(host.HostError, match="chromium failed"):
            host.need_browser()
    assert said.read_text().splitlines() == [
        "-qq -o DPkg::Lock::Timeout=600 update",
        "-qq -o DPkg::Lock::Timeout=600 install -y chromium",
    ]
