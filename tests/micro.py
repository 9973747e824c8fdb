"""The micro world for tests: the trained checkpoint where there is one, else the same architecture with random weights."""

from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
TRAINED = ROOT / "microworld" / "microworld.safetensors"


def checkpoint(folder: Path) -> Path:
    """A checkpoint in `folder` that the stock loader loads."""
    file = folder / "microworld.safetensors"
    if TRAINED.exists():
        file.symlink_to(TRAINED)
        return file
    from microworld.autoencoder import Autoencoder
    from microworld.checkpoint import write_checkpoint
    from microworld.diffusion import TextToNoise
    from microworld.spec import DEFAULT_WORLD, load_world

    torch.manual_seed(0)
    model = TextToNoise(load_world(DEFAULT_WORLD))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    write_checkpoint(file, model.state_dict(), Autoencoder(), torch.zeros(()), torch.ones(()))
    return file
