"""The archive that ComfyUI's registry hands out: what git tracks, less what .comfyignore names, as `comfy node publish` zips it.

python3 scripts/archive.py compositional_inversion.zip
"""

import subprocess
import sys
import zipfile
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


def _listed(*flags: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", *flags]
    listed = subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=True).stdout
    return set(listed.rstrip("\0").split("\0")) if listed else set()


def published() -> list[str]:
    """Paths of the published files in the repository."""
    left_out = _listed("--ignored", "--exclude-from=.comfyignore")
    return sorted(path for path in _listed() - left_out if (PACK / path).is_file())


def write(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in published():
            archive.write(PACK / path, path)


def main() -> int:
    if len(sys.argv) != 2:
        print("Name the file to write: python3 scripts/archive.py compositional_inversion.zip", file=sys.stderr)
        return 1
    file = Path(sys.argv[1])
    write(file)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    print(f"{file}: {len(entries)} files, {file.stat().st_size / 1e6:.2f} MB, {unpacked / 1e6:.2f} MB unpacked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
