"""The autoencoder: ComfyUI's TAESD, trained on scenes and on rooms wilder than the diffusion model will see.

Two thirds of TAESD's arithmetic lies in its residual blocks at full and half resolution. Here most of these start as
a mere rectifier and stay so: their last convolution is zero, the run skips them, and the file that ComfyUI loads is a
whole TAESD all the same.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from . import runs
from .comfyui import use_host
from .optim import optimizers
from .scenes import class_map, draw, random_scene
from .spec import DEFAULT_WORLD, World, load_world

ENCODER_RECTIFIERS = (1, 4, 5)  # blocks of TAESD's Encoder and Decoder that stay a rectifier
DECODER_RECTIFIERS = (14, 15, 18)


def _initialise(sequence: nn.Sequential, rectifiers: tuple[int, ...]) -> nn.Sequential:
    """TAESD stalls with torch's own initialisation; returns the sequence with its idle blocks put shorter."""
    for module in sequence.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for i, block in enumerate(sequence):
        if hasattr(block, "fuse"):
            block.conv[4].weight.data.mul_(0.0 if i in rectifiers else 0.2)
    sequence[-1].weight.data.mul_(0.5)
    for i in rectifiers:
        sequence[i].requires_grad_(False)
    return nn.Sequential(*(nn.ReLU() if i in rectifiers else m for i, m in enumerate(sequence)))


class Autoencoder(nn.Module):
    """`encoder` and `decoder` are TAESD's; `encode` and `decode` leave out what is only a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        use_host()
        from comfy.taesd.taesd import Decoder, Encoder

        self.encoder, self.decoder = Encoder(4), Decoder(4)
        self._encode = [_initialise(self.encoder, ENCODER_RECTIFIERS)]  # in lists: no second name in the state dict
        self._decode = [_initialise(self.decoder, DECODER_RECTIFIERS)]

    def take_over(self, checkpoint: Path) -> None:
        """The weights in a world's checkpoint, in half precision there."""
        prefix = "first_stage_model.taesd_"
        tensors = load_file(checkpoint).items()
        self.load_state_dict({key.removeprefix(prefix): v.float() for key, v in tensors if key.startswith(prefix)})

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 4, H/8, W/8)."""
        return self._encode[0](images.contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor) -> Tensor:
        return self._decode[0](latents.contiguous(memory_format=torch.channels_last))


def pictures(world: World, seed: list[int], count: int, wild: bool) -> tuple[Tensor, Tensor]:
    """(count, 3, size, size) scenes, and (count, 1, size, size) whether a thing is there.

    With `wild`, half of the scenes are in front of wallpaper.
    """
    random = np.random.default_rng(seed)
    images, things = [], []
    for i in range(count):
        scene = random_scene(world, random)
        if wild and i % 2:
            scene = type(scene)("wallpaper", scene.wallpaper, scene.slant, scene.things)
        images.append(draw(world, scene, world.size, world.size))
        things.append(class_map(world, scene, world.size) < len(world.classes))
    return rearrange(torch.from_numpy(np.stack(images)), "b h w c -> b c h w"), torch.from_numpy(np.stack(things))[
        :, None
    ]


def reconstruction_loss(output: Tensor, images: Tensor, things: Tensor) -> Tensor:
    """Squared and absolute error, and the squared error of horizontal and vertical differences, which holds edges.

    An error on a thing counts double: rooms fill most of a scene and matter least.
    """
    error = (output - images) * (1 + things.float())
    dx, dy = error.diff(dim=-1), error.diff(dim=-2)
    return error.square().mean() + 0.1 * error.abs().mean() + 0.5 * (dx.square().mean() + dy.square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="2600; 1000 where it starts from another world's")
    parser.add_argument("--batch", type=int, default=16, help="of all processes together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--bf16", action="store_true", help="products of bfloat16: faster where the processor has AMX")
    args = parser.parse_args()
    rank, count = runs.join_processes()
    world = load_world(args.world)
    torch.manual_seed(world.seed)
    model = Autoencoder().to(memory_format=torch.channels_last)
    first = world.model.start
    if first is not None:
        model.take_over(first)
    steps = args.steps or (2600 if first is None else 1000)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]

    def loss_of(step: int) -> Tensor:
        images, things = pictures(world, [world.seed, 1, rank, step], args.batch // count, wild=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            latents = model.encode(images)
        # Noise makes the decoder forgiving of a diffusion model's small errors; the pull keeps latents within TAESD's clamp.
        noisy = latents + 0.05 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(step * 8 + rank))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output = model.decode(noisy)
        return reconstruction_loss(output.float(), images, things) + 0.0002 * latents.float().square().mean()

    test, things = pictures(world, [world.seed, 2], 32, wild=False)

    def report(step: int) -> None:
        with torch.no_grad():
            latents = model.encode(test)
            errors = (model.decode(latents).clamp(0, 1) - test).square().mean(1, keepdim=True)
        decibels = [-10 * errors.mean((1, 2, 3)).log10().mean().item(), -10 * errors[things].mean().log10().item()]
        text = "{:.2f} dB, on things {:.2f} dB".format(*decibels)
        print(f"autoencoder step {step}: {text}, latent std {latents.std():.3f}", flush=True)

    runs.train("autoencoder", model, optimizers(named, args.lr), loss_of, steps, args.out, report=report)


if __name__ == "__main__":
    main()
