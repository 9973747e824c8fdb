"""One file from the parts: what the stock checkpoint loader reads."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .autoencoder import Autoencoder, pictures
from .latents import load_autoencoder
from .spec import DEFAULT_WORLD, Prediction, load_world


def write_checkpoint(
    file: Path,
    diffusion: dict[str, Tensor],
    autoencoder: Autoencoder,
    mean: Tensor,
    std: Tensor,
    prediction: Prediction = "epsilon",
) -> None:
    """`diffusion` is the state dict of a TextToNoise; `mean` and `std` are those of the encoder's latents."""
    tensors: dict[str, Tensor] = {}
    prefixes = {"unet": "model.diffusion_model", "text": "cond_stage_model.transformer"}
    for key, value in diffusion.items():
        part, rest = key.split(".", 1)
        if part in prefixes:
            tensors[f"{prefixes[part]}.{rest}"] = value
    for part in ("encoder", "decoder"):
        for key, value in getattr(autoencoder, part).state_dict().items():
            tensors[f"first_stage_model.taesd_{part}.{key}"] = value
    tensors["first_stage_model.vae_scale"] = std
    tensors["first_stage_model.vae_shift"] = -mean / std
    if prediction == "v":
        tensors["v_pred"] = torch.tensor([])  # how ComfyUI marks such a checkpoint, and reads SDXL's
    file.parent.mkdir(exist_ok=True)
    save_file({key: value.detach().half().contiguous() for key, value in tensors.items()}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--file", type=Path, help="else the world's own")
    args = parser.parse_args()
    world = load_world(args.world)
    file = args.file or world.checkpoint
    autoencoder = load_autoencoder(args.out)
    state = torch.load(args.out / "diffusion.ckpt", weights_only=True)
    # The mean and spread that the diffusion model was trained with: of the first shard.
    first = torch.load(args.out / "latents_000.pt", weights_only=True)["latents"].float()
    write_checkpoint(file, state["ema"], autoencoder, first.mean(), first.std(), world.model.prediction)
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, {state['step']} steps")
    # Colours for previews without a decoder: the least-squares map from a latent cell to its pixels' mean.
    images, _ = pictures(world, [world.seed, 4], 64, wild=False)
    with torch.no_grad():
        latents = (autoencoder.encode(images) - first.mean()) / first.std()
    cells = torch.cat([latents.permute(0, 2, 3, 1).reshape(-1, 4), torch.ones(latents[:, 0].numel(), 1)], dim=1)
    colors = torch.nn.functional.avg_pool2d(images * 2 - 1, 8).permute(0, 2, 3, 1).reshape(-1, 3)
    fit = torch.linalg.lstsq(cells, colors).solution
    text = json.dumps({"factors": fit[:4].tolist(), "bias": fit[4].tolist()}, indent=1)
    (world.host_folder / "latent_colors.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
