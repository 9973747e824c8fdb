"""The diffusion model: ComfyUI's UNetModel and CLIP text model, trained together on latents and captions."""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from . import runs
from .comfyui import use_host
from .optim import optimizers
from .spec import DEFAULT_WORLD, Prediction, World, load_world
from .tokenizer import text_encoder

SHORT = 32  # tokens; no caption is longer
UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_checkpoint": False,
    "legacy": False,
}


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's schedule, which is ComfyUI's default: (1000,)."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def denoising_loss(output: Tensor, latents: Tensor, noise: Tensor, alphas: Tensor, prediction: Prediction) -> Tensor:
    """The error of v, less at low noise: min-SNR weighting, as in Hang et al. (2023). A scalar.

    The error of epsilon hardly counts what stands where, which high noise decides, and low noise is easy. Written in
    terms of epsilon, the error of v grows without bound towards pure noise, so there it is bounded.

    Args:
        output: (B, 4, h, w), what the model says of `alphas.sqrt() * latents + (1 - alphas).sqrt() * noise`.
        alphas: (B,), the cumulative products of the schedule.
    """
    snr = alphas / (1 - alphas)
    easy = (5 / snr).clamp_max(1)
    if prediction == "epsilon":
        return ((1 / alphas).clamp_max(20) * easy * (output - noise).square().mean((1, 2, 3))).mean()
    signal, sigma = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
    return (easy * (output - (signal * noise - sigma * latents)).square().mean((1, 2, 3))).mean()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: Any) -> Tensor:
    """ComfyUI's attention (B, L, C) in plain products: of bfloat16 on a CPU, torch's fused one is slow in going back."""
    q, k, v = (rearrange(part, "b l (a c) -> (b a) l c", a=heads) for part in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return rearrange(torch.bmm(scores.softmax(-1), v), "(b a) l c -> b l (a c)", a=heads)


class TextToNoise(nn.Module):
    """`unet` and `text` are ComfyUI's UNetModel and CLIPTextModel, whose state dicts the checkpoint holds."""

    def __init__(self, world: World) -> None:
        super().__init__()
        use_host()
        import comfy.ops
        from comfy.clip_model import CLIPTextModel
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        config = text_encoder(world.model.width)
        vocabulary = json.loads((world.host_folder / "tokenizer" / "vocab.json").read_text())
        self.end = vocabulary["<|endoftext|>"]
        self.start = vocabulary["<|startoftext|>"]
        ops = comfy.ops.disable_weight_init
        width = world.model.width
        self.unet = UNetModel(**UNET, context_dim=width, dtype=torch.float32, operations=ops)
        self.text = CLIPTextModel({**config, "eos_token_id": self.end}, torch.float32, "cpu", ops)
        self.text.set_input_embeddings(ops.Embedding(len(vocabulary), width))
        for module in self.modules():
            match module:
                case nn.Linear():
                    nn.Linear.reset_parameters(module)
                case nn.Conv2d():
                    nn.Conv2d.reset_parameters(module)
                case nn.GroupNorm() | nn.LayerNorm():
                    nn.init.ones_(module.weight)
                    nn.init.zeros_(module.bias)
                case nn.Embedding():
                    nn.init.normal_(module.weight, std=0.03)
                case _:
                    pass
        # For training only: which class stands where, read off the first decoder block of the latent's own resolution.
        self.classes = nn.Conv2d(2 * UNET["model_channels"], len(world.classes) + 1, 1)
        self.seen: list[Tensor] = []
        self.unet.output_blocks[1][-1].register_forward_hook(lambda _module, _inputs, output: self.seen.append(output))
        for name, parameter in self.unet.named_parameters():
            if any(part in name for part in ("out_layers.3", "proj_out", "out.2")):
                nn.init.zeros_(parameter)

    def take_over(self, checkpoint: Path) -> None:
        """The UNet's weights in a world's checkpoint, but for its output and for what reads words of another width."""
        prefix, own = "model.diffusion_model.", self.unet.state_dict()
        for key, value in load_file(checkpoint).items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and own[name].shape == value.shape and not name.startswith("out.2"):
                own[name].copy_(value)

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, width). ComfyUI's layers add in place, which autograd refuses; these lines do not."""
        from comfy.ldm.modules import attention as host_attention

        model = self.text.text_model
        embeddings = model.embeddings
        x = embeddings.token_embedding(tokens) + embeddings.position_embedding.weight[: tokens.shape[1]]
        mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max).triu_(1)
        for layer in model.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), mask, host_attention.attention_pytorch)
            x = x + layer.mlp(layer.layer_norm2(x))
        return model.final_layer_norm(x)

    def forward(self, noisy: Tensor, steps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The noise, or v, (B, 4, h, w), and logits (B, classes + 1, h, w) of which class stands where."""
        self.seen.clear()
        predicted = self.unet(noisy, steps.float(), self.encode(tokens))
        return predicted, self.classes(self.seen.pop())


class Shards:
    """Latents and tokens by step: the first steps draw from the first shards, so that training need not wait for all."""

    def __init__(self, folder: Path, count: int, end: int) -> None:
        self.folder, self.count, self.end = folder, count, end
        self.shards: list[dict[str, Tensor]] = []

    def upto(self, count: int) -> None:
        while len(self.shards) < min(count, self.count):
            path = self.folder / f"latents_{len(self.shards):03}.pt"
            while not path.exists():
                time.sleep(1)
            self.shards.append(torch.load(path, weights_only=True))

    def draw(self, generator: torch.Generator, size: int, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of latents, tokens and class maps, chosen from more.

        In the first 30 % of a run the shortest captions, mostly of one thing; from 55 % on mostly scenes of two.
        """
        rows = len(self.shards[0]["latents"])
        picks = torch.randint(len(self.shards) * rows, (size + round(size * 0.7),), generator=generator).tolist()

        def length(i: int) -> int:
            return int((self.shards[i // rows]["tokens"][i % rows, 0] != self.end).sum())

        def from_two(i: int) -> int:
            return abs(len(self.shards[i // rows]["classes"][i % rows].unique()) - 3)  # the room counts too

        if progress < 0.3:
            picks.sort(key=length)
        elif progress >= 0.55:
            picks.sort(key=from_two)
        picks = picks[:size]
        captions = self.shards[0]["tokens"].shape[1]
        which = torch.randint(captions, (size,), generator=generator).tolist()
        latents = torch.stack([self.shards[i // rows]["latents"][i % rows] for i in picks]).float()
        tokens = torch.stack([self.shards[i // rows]["tokens"][i % rows, k] for i, k in zip(picks, which, strict=True)])
        classes = torch.stack([self.shards[i // rows]["classes"][i % rows] for i in picks])
        return latents, tokens.long(), classes.long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="7200; 2400 where it starts from another world's")
    parser.add_argument("--batch", type=int, default=96, help="of all processes together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--bf16", action="store_true", help="products of bfloat16: faster where the processor has AMX")
    args = parser.parse_args()
    rank, count = runs.join_processes()
    batch = args.batch // count
    use_host()
    from comfy.cli_args import args as host_args

    host_args.use_pytorch_cross_attention = True
    from comfy.ldm.modules import attention as host_attention

    if args.bf16:
        host_attention.optimized_attention = host_attention.attention_pytorch = attention
    world = load_world(args.world)
    torch.manual_seed(world.seed)
    model = TextToNoise(world)
    if world.model.start is not None:
        model.take_over(world.model.start)
    total = args.steps or (7200 if world.model.start is None else 2400)
    ema = copy.deepcopy(model).requires_grad_(False)
    shards, alphas = Shards(args.out, args.shards, model.end), alphas_cumprod()
    shards.upto(1)
    first = shards.shards[0]["latents"].float()
    mean, std = first.mean(), first.std()

    def loss_of(step: int) -> Tensor:
        shards.upto(1 + step // 60)
        generator = torch.Generator().manual_seed((world.seed * 100_003 + step) * 64 + rank)
        latents, tokens, classes = shards.draw(generator, batch, step / total)
        latents = (latents - mean) / std
        dropped = torch.rand(batch, generator=generator) < 0.1
        tokens[dropped] = torch.tensor([model.start] + [model.end] * (tokens.shape[1] - 1))
        if step < 0.95 * total:  # most of a prompt's 77 tokens are padding: a third faster without it
            tokens = tokens[:, :SHORT]
        # What stands where is decided at high noise: a third of the batch goes there, at last half of it.
        steps = torch.randint(1000, (batch,), generator=generator)
        high = torch.rand(batch, generator=generator) < (1 / 3 if step < 0.55 * total else 1 / 2)
        steps = torch.where(high, 600 + steps * 2 // 5, steps)
        noise = torch.randn(latents.shape, generator=generator)
        a = alphas[steps][:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output, seen = model(a.sqrt() * latents + (1 - a).sqrt() * noise, steps, tokens)
        denoising = denoising_loss(output.float(), latents, noise, alphas[steps], world.model.prediction)
        # Having to say what stands where teaches the words at high noise, where nothing but the text tells it.
        return denoising + 0.1 * F.cross_entropy(seen.float(), classes)

    runs.train(
        "diffusion",
        model,
        optimizers(model.named_parameters(), args.lr, weight_decay=0.01),
        loss_of,
        total,
        args.out,
        ema=ema,
        save_every=100,
    )


if __name__ == "__main__":
    main()
