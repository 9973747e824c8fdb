"""What a training step costs against its floor and against diffusers' way of doing one (T1 to T6), of a fine-tune (T8, T9), and of
attributes (T10).

The floor of a step is a forward of the frozen UNet and a backward that reaches nothing but what the text gives it: context,
and SDXL's pooled output, whose gradient runs through every residual block. Forgetting it would be 1.8 % cheaper, and wrong.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from host import SD15, SDXL, Architecture, goal, stated
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from compinv_core.adapter import Change
from compinv_core.backbone import Encoded, NoiseSchedule, PreparedPrompts, Vectors
from compinv_core.host import text_encoder, text_gradient
from compinv_core.host.attention import outline
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.latents import noise_schedule
from compinv_core.host.model import checkpointed, predictor
from compinv_core.host.weights import Changes, weights_of
from compinv_core.memory import MemoryPlan
from compinv_core.prompts.templates import OBJECT_TEMPLATES
from compinv_core.prompts.vocabulary import Vocabulary
from compinv_core.reading.table import MATTE, Table, noises_of, per_layer, per_stage
from compinv_core.training.concept_training import ConceptTraining
from compinv_core.training.loop import Surroundings, as_leaves, train
from compinv_core.training.objective import diffusion_loss
from compinv_core.training.recipe import Recipe
from compinv_core.training.request import Request
from compinv_core.training.run import BYTES_PER_NUMBER
from compinv_core.training.task import Task, TrainingData
from compinv_core.training.ways.attributes import Attributes, acting_in, combinations
from compinv_core.training.ways.textual_inversion import TextualInversion, Word
from compinv_core.training.ways.weight_changes import added

VECTORS, WORDS = 3, 49408


class Step:
    """A step of ours on full-size meta weights, for one picture."""

    def __init__(self, architecture: Architecture, device: str = "meta", side: int | None = None) -> None:
        self.side, self.device = side or architecture.side, device
        self.model, self.clip = architecture.model(device), architecture.clip(device)
        encoders = text_encoder.text_encoders(self.clip)
        widths = {key: e.transformer.get_input_embeddings().weight.shape[1] for key, e in encoders.items()}
        prompts = [(template.format("embedding:probe"), "probe") for template in OBJECT_TEMPLATES]
        self.prepared = text_gradient.prepare(self.clip, prompts, {"probe": VECTORS})
        self.vectors = {k: torch.zeros(VECTORS, w, device=device, requires_grad=True) for k, w in widths.items()}
        self.latents = torch.zeros(1, 4, self.side, self.side, device=device)
        alphas = noise_schedule(self.model).alphas_cumprod.to(device)
        self.schedule = NoiseSchedule(alphas, "epsilon")

    def loss(self, encoded: Encoded) -> Tensor:
        steps = torch.zeros(1, dtype=torch.long, device=self.device)
        return diffusion_loss(predictor(self.model), self.schedule, self.latents, self.latents, steps, encoded).mean()

    def encode(self) -> Encoded:
        with text_gradient.differentiable(self.clip):
            return text_gradient.encode_prepared(self.clip, self.prepared, [0], {"probe": self.vectors})

    def floor_input(self) -> Encoded:
        """Text as a leaf, where the floor's backward ends."""
        encoded = self.encode()
        return Encoded(encoded.context.detach().requires_grad_(), encoded.pooled.detach().requires_grad_())


def flops(run: Callable[[], Tensor]) -> int:
    """Of a forward and its backward."""
    with FlopCounterMode(display=False) as counter:
        run().backward()
    return counter.get_total_flops()


def diffusers_unet(architecture: Architecture) -> Any:
    from diffusers import UNet2DConditionModel

    if architecture is SD15:
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).requires_grad_(False)
    return UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ).requires_grad_(False)


def diffusers_step() -> Callable[[], Tensor]:
    """As diffusers' textual_inversion.py does it on SD 1.5: the autoencoder in every step, the whole table trained."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = diffusers_unet(SD15)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ).requires_grad_(False)
        config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        text = CLIPTextModel(config).requires_grad_(False)
        text.get_input_embeddings().weight.requires_grad_()
        pixels = torch.zeros(1, 3, 8 * SD15.side, 8 * SD15.side)
        tokens = torch.zeros(1, 77, dtype=torch.long)

    def step() -> Tensor:
        latents = vae.encode(pixels).latent_dist.parameters[:, :4]
        hidden = text(tokens).last_hidden_state
        output = unet(latents, torch.zeros(1, device="meta"), hidden).sample
        return (output - latents.detach()).square().mean()

    return step


def saved_bytes(run: Callable[[], Tensor], unet: torch.nn.Module) -> int:
    """What a forward keeps for its backward, weights excluded; of checkpointed blocks, what enters them.

    In the backward one such block at a time comes on top.
    """
    known = {weight.untyped_storage()._cdata for weight in unet.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in known:
            kept[storage] = tensor
        return tensor

    twice = [module for module in unet.modules() if "forward" in module.__dict__]
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: [pack(t) for t in inputs if isinstance(t, Tensor)] and None)
        for module in twice
    ]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    del loss
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def activations(architecture: Architecture) -> tuple[int, int, int]:
    """Bytes that the UNet keeps in our step, with gradient checkpointing, and in diffusers', frozen, efficient attention."""
    side = architecture.side
    with FakeTensorMode():  # shapes alone, but as on a real device: the CPU's attention kernel, not its formula
        model = architecture.model("cpu")
        schedule = NoiseSchedule(torch.ones(1000), "epsilon")
        latents, steps = torch.zeros(1, 4, side, side), torch.zeros(1, dtype=torch.long)
        text = torch.zeros(1, 77, architecture.unet["context_dim"], requires_grad=True)
        prompt = Encoded(text, torch.zeros(1, 1280))
        base = model.model.diffusion_model

        def run() -> Tensor:
            return diffusion_loss(predictor(model), schedule, latents, latents, steps, prompt).mean()

        ours = saved_bytes(run, base)
        with checkpointed(base):
            twice = saved_bytes(run, base)
        unet = diffusers_unet(architecture)
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        theirs = saved_bytes(
            lambda: unet(latents, torch.zeros(1), text, added_cond_kwargs=added).sample.square().mean(),
            unet,
        )
    return ours, twice, theirs


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        touched = tree_flatten((arguments, named, result))[0]
        self.total += sum(t.nbytes for t in touched if isinstance(t, Tensor))
        return result


def optimiser_traffic(rows: int, restore: bool) -> int:
    """Of AdamW on `rows` rows of a table; with `restore`, also of putting all but the new rows back."""
    table = torch.zeros(rows, 768, device="meta", requires_grad=True)
    optimizer = torch.optim.AdamW([table], foreach=False)
    table.grad = torch.zeros_like(table)
    optimizer.step()
    with Traffic() as traffic:
        optimizer.step()
        if restore:
            before = torch.zeros(rows, 768, device="meta")
            with torch.no_grad():
                table.copy_(torch.where(torch.zeros(rows, 1, dtype=torch.bool, device="meta"), table, before))
    return traffic.total


def state_of_a_run() -> tuple[int, int]:
    """(numbers that are trained, bytes of gradient and optimiser state) of our loop with three vectors of SD 1.x."""

    def encode(prepared: PreparedPrompts, indices: Sequence[int], words: Mapping[str, Vectors]) -> Encoded:
        word = words["probe"]["clip_l"][:1, None].expand(len(indices), 1, 768)
        return Encoded(word, word[:, 0])

    known = Vocabulary(("cat",), torch.zeros(1, dtype=torch.long), torch.ones(1, 768))
    backbone: Any = SimpleNamespace(vocabularies={"clip_l": known}, encode=encode)
    no_prompts = PreparedPrompts({}, {}, {}, ("probe",), {"probe": VECTORS})
    word = Word("probe", "cat", {"clip_l": torch.zeros(VECTORS, 768)})
    task = Task(
        TrainingData(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, dtype=torch.long)),
        way=TextualInversion(backbone, (word,), no_prompts),
        recipe=Recipe(1, 1),
        predict=lambda noisy, timesteps, prompts: noisy + prompts.context.sum(),
        schedule=NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon"),
        unchanged=nullcontext,
    )
    rates = task.way.learning_rates(task.recipe)
    end = train(task, Surroundings(MemoryPlan(0, 1, 1, 1)), as_leaves(task.way.start(), task.device, set(rates)))
    numbers = sum(end.parameters[name].numel() for name in rates)
    state = [value for entry in end.optimizer["state"].values() for value in entry.values()]
    gradient = numbers * 4
    return numbers, gradient + sum(value.nbytes for value in state)


def encodes() -> tuple[int, float]:
    """(calls of the autoencoder in a loop of four steps, calls before it for each picture and mirror image)."""
    from microworld.evaluate import CHECKPOINT, load_checkpoint

    model, clip, vae = load_checkpoint(CHECKPOINT)
    calls: list[int] = []
    counted = copy.copy(vae)
    counted.encode = lambda pixels: (calls.append(len(pixels)), vae.encode(pixels))[1]
    request = Request("probe", "cat", [torch.rand(3, 64, 64, 3)], vectors=1, resolution=64)
    training = ConceptTraining(ComfyBackbone(model, clip, counted), [request], Recipe(4, 2))
    after_steps: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        training.run(Path(folder), lambda: bool(after_steps.append(sum(calls))), lambda _: None)
    return sum(calls) - after_steps[0], after_steps[0] / (3 * 2)


KINDS = {"K,V": "cross-attention keys and values", "attention": "attention", "whole UNet": "all"}
PARAMETERS = {  # of each, in full and at rank 16, of the published architectures
    "sd15": {"K,V": 19_169_280, "K,V rank 16": 792_576, "attention rank 16": 3_188_736, "whole UNet": 859_520_964},
    "sdxl": {
        "K,V": 340_787_200,
        "K,V rank 16": 7_249_920,
        "attention rank 16": 23_224_320,
        "whole UNet": 2_567_463_684,
    },
}


def fine_tune_flops(step: Step) -> int:
    """Of our step with the change of keys and values in it, each in full, and no prior."""
    unet = step.model.model.diffusion_model
    paths = weights_of(unet, KINDS["K,V"])
    deltas = {p: torch.zeros_like(unet.get_parameter(p), requires_grad=True) for p in paths}
    changes = {path: partial(added, change=Change(delta)) for path, delta in deltas.items()}
    with Changes().attached(unet, changes):
        return flops(lambda: step.loss(step.encode()))


def learnt_numbers(step: Step, what: str, rank: int) -> int:
    """How many numbers a way trains of the UNet."""
    unet = step.model.model.diffusion_model
    shapes = [unet.get_parameter(path).shape for path in weights_of(unet, KINDS[what])]
    return sum(rank * sum(shape) if rank else shape.numel() for shape in shapes)


def state_per_number() -> float:
    """Bytes of a number that is learnt, with its gradient and what AdamW keeps of it, in our loop's own optimiser."""
    leaf = as_leaves({"unet/w": torch.zeros(64, 64)}, torch.device("cpu"), {"unet/w"})["unet/w"]
    optimizer = torch.optim.AdamW([leaf])
    optimizer.step()
    kept = [value for value in optimizer.state[leaf].values() if value.numel() > 1]
    return (leaf.nbytes + leaf.grad.nbytes + sum(value.nbytes for value in kept)) / leaf.numel()


def attribute_flops(step: Step, table: Table) -> int:
    """Of a step that learns attributes, for one picture, in the stage in which most texts are encoded."""
    unet = outline(step.model)
    cells, acting = table.on(unet), combinations(table.on(unet), unet)
    names = {attribute: f"probe-{attribute}" for attribute in table.lines}
    placeholders = [[names[attribute] for attribute in own] for own in acting]
    prompts = [("a photo of " + " ".join(f"embedding:{name}" for name in own), own[0]) for own in placeholders]
    counts = dict.fromkeys(names.values(), 1)
    prepared = text_gradient.prepare(step.clip, prompts, counts, [own[1:] for own in placeholders])
    start = {key: vectors[:1].detach() for key, vectors in step.vectors.items()}
    backbone: Any = SimpleNamespace(
        schedule=step.schedule,
        outline=unet,
        device=torch.device(step.device),
        encode=partial(text_gradient.encode_prepared, step.clip),
        encode_text=lambda _: step.floor_input(),
    )
    words = tuple(Word(name, "cat", start) for name in names.values())
    of_words = TextualInversion(backbone, words, prepared, ("a photo of cat",))
    way = Attributes(of_words, names, cells, {(0, own): i for i, own in enumerate(acting)})
    parameters = {name: value.clone().requires_grad_() for name, value in way.start().items()}

    def texts(noise: float) -> int:
        return len({acting_in(cells, place, noise) for place in unet.place_names} - {()})

    steps = torch.tensor([int(max(noises_of(table.cuts), key=texts) * len(step.schedule.alphas_cumprod))])

    def loss() -> Tensor:
        with text_gradient.differentiable(step.clip):
            return step.loss(way.encode([0], parameters, steps))

    way.encode_ordinary([0])  # which a run does once
    return flops(loss)


def seconds(run: Callable[[], Any], times: int = 3) -> float:
    """The quickest of a few."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    for architecture in (SD15, SDXL):
        step = Step(architecture)
        leaf = step.floor_input()
        floor = flops(lambda s=step, x=leaf: s.loss(Encoded(x.context.clone(), x.pooled.clone())))
        ours = flops(lambda s=step: s.loss(s.encode()))
        anchor = "1.364 official" if architecture is SDXL else ""
        if architecture is SD15:
            anchor = f"{flops(diffusers_step()) / floor:.3f} diffusers, side by side"
        goal("T1", architecture.name, ours / floor, 1.02, anchor)
        kept, twice, least = activations(architecture)
        goal("T5", architecture.name, kept / least, 1.05, f"{kept / 1e9:.2f} GB in float32")
        goal("T5", f"{architecture.name} checkpointed", twice / least, 0.25)
        with checkpointed(step.model.model.diffusion_model):
            again = flops(lambda s=step: s.loss(s.encode()))
        goal("T5", f"{architecture.name} checkpointed, FLOPs", again / ours, 1.45)
        goal("T8", f"{architecture.name} K,V", fine_tune_flops(step) / ours, 1.05, "2 with class images")
        for kind, table in (("MATTE", MATTE), ("ProSpect", per_stage())):
            goal("T10", f"{architecture.name} {kind}", attribute_flops(step, table) / ours, 1.12)
        layers = per_layer(outline(step.model))
        cost = attribute_flops(step, layers) / ours
        stated("T10", f"{architecture.name} P+", cost, f"{len(layers.lines)} texts are encoded, one for each block")
        for name, wanted in PARAMETERS[architecture.name].items():
            what, _, rank = name.partition(" rank ")
            numbers = learnt_numbers(step, what, int(rank or 0))
            goal("T9", f"{architecture.name} {name}", numbers / wanted, 1.0, f"{16 * numbers / 1e9:.3g} GB")
    goal("T9", "bytes a parameter", state_per_number(), BYTES_PER_NUMBER)
    inside, before = encodes()
    goal("T2", "in the loop", inside, 0, "1 a picture official")
    goal("T2", "before it", before, 1)
    numbers, state = state_of_a_run()
    goal("T3", "numbers", numbers / (VECTORS * 768), 1.0, f"{WORDS * 768 / numbers:.0f} diffusers")
    goal("T3", "state", state / (numbers * 4), 4.0)
    whole = optimiser_traffic(WORDS, restore=True)
    goal(
        "T4",
        "traffic",
        optimiser_traffic(VECTORS, restore=False) / whole,
        1e-3,
        f"{whole / 1e9:.2f} GB a step, diffusers",
    )
    wall()


def wall() -> None:
    """T6: a step's time in forwards of the UNet, 256 px, one thread; weights of full size, random."""
    torch.set_num_threads(1)
    step = Step(SD15, "cpu", 32)
    for weight in step.model.model.diffusion_model.parameters():
        torch.nn.init.uniform_(weight, -0.02, 0.02)
    for weight in step.clip.cond_stage_model.parameters():
        torch.nn.init.uniform_(weight, -0.02, 0.02)
    leaf = step.floor_input()

    def forward() -> None:
        with torch.no_grad():
            step.loss(leaf)

    forward()
    goal(
        "T6", "sd15", seconds(lambda: step.loss(step.encode()).backward()) / seconds(forward), 2.4, "about 4.0 official"
    )
