"""`python -m compinv_core train config.toml`: the training of the node without a graph or a server."""

import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] != "train":
        print("Usage: python -m compinv_core train config.toml", file=sys.stderr)
        return 2
    host = Path(os.environ.get("COMFYUI_PATH") or PACK.parent.parent)  # the pack lies in its custom_nodes
    if not (host / "comfy").is_dir():
        print(f'"{host}" is not a ComfyUI folder; set COMFYUI_PATH to yours.', file=sys.stderr)
        return 2
    sys.path.insert(0, str(host))
    from .host.command_line import ConfigError, train_all

    try:
        train_all(Path(sys.argv[2]))
    except (ConfigError, ValueError, FloatingPointError, MemoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where the training was.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
