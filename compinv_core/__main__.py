"""`python -m compinv_core train config.toml`, `... layouts --checkpoint name`, `... runs` and `... convert`: the pack without a graph or a server."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from .forms import FORMS, convert

PACK = Path(__file__).resolve().parent.parent


def main() -> int:
    asked = _parser().parse_args()
    if asked.what == "convert":  # which needs no ComfyUI
        return _printed(lambda: "\n".join(map(str, convert(asked.source, asked.target, asked.format))))
    host = Path(os.environ.get("COMFYUI_PATH") or PACK.parent.parent)  # the pack lies in its custom_nodes
    if not (host / "comfy").is_dir():
        print(f'"{host}" is not a ComfyUI folder; set COMFYUI_PATH to yours.', file=sys.stderr)
        return 2
    sys.path.insert(0, str(host))
    if asked.what == "runs":
        from .cli.runs import runs

        return _printed(lambda: runs(asked.remove, asked.remove_all))
    from .cli.config import ConfigError
    from .cli.train import train_all, train_layouts

    try:
        if asked.what == "train":
            failures = train_all(asked.config)
            print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
            return 1 if failures else 0
        else:
            settings = {name: value for name in SETTINGS if (value := getattr(asked, name)) is not None}
            train_layouts(asked.checkpoint, settings)
    except (ConfigError, ValueError, FloatingPointError, MemoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command resumes the training.", file=sys.stderr)
        return 130
    return 0


def _printed(work: Callable[[], str]) -> int:
    try:
        print(work())
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


SETTINGS = {"prompts": int, "resolution": int, "steps": int, "cfg": float, "seed": int}
"""Of the layout predictor's training, with the node's defaults."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compinv_core", description="Training without a graph.")
    commands = parser.add_subparsers(dest="what", required=True)
    words = commands.add_parser("train", help="train embeddings from images")
    words.add_argument("config", type=Path, help="a TOML file of settings, whose keys compinv_core/cli/config.py lists")
    layouts = commands.add_parser("layouts", help="train a layout predictor for Spatial Layout Recover")
    layouts.add_argument("--checkpoint", required=True, help="a name in models/checkpoints, or a path")
    for name, kind in SETTINGS.items():
        layouts.add_argument(f"--{name}", type=kind, help="as on the node Train Layout Predictor")
    kept = commands.add_parser(
        "runs",
        help="list unfinished trainings, or remove some; after 30 days the next training removes them",
    )
    which = kept.add_mutually_exclusive_group()
    which.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="remove these; they cannot be resumed")
    which.add_argument("--remove-all", action="store_true", help="remove all of them")
    copy = commands.add_parser("convert", help="write an embedding in another program's form")
    copy.add_argument("source", type=Path, help="any embedding that Load Concept reads")
    copy.add_argument("target", type=Path, help="the new file; its name is what prompts call the embedding")
    copy.add_argument(
        "--format",
        choices=list(FORMS),
        required=True,
        help="A1111 is a .pt file, the others are .safetensors; diffusers has two files of SDXL, XTI is kohya's, of a concept per layer",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
