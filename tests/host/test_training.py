"""Training on the real host: gradients against diffusers, nothing left changed, cancel, refusals."""

import re
import resource
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.request import Request
from PIL import Image
from pretended import dynamic

ROOT = Path(__file__).parent.parent.parent


def pictures_of(concept: str) -> list[torch.Tensor]:
    folder = ROOT / "microworld" / "user_pictures" / concept
    return [torch.from_numpy(np.asarray(Image.open(p), np.float32) / 255)[None] for p in sorted(folder.iterdir())]


@pytest.fixture
def images() -> list[torch.Tensor]:
    return pictures_of("mittens")


def train(pack: Any, microworld: Any, images: list[torch.Tensor], **changes: Any) -> tuple[Any, ...]:
    model, clip, vae = microworld
    inputs = {
        "model": model,
        "clip": clip,
        "vae": vae,
        "placeholder": "my-mittens",
        "class_word": "cat",
        "resolution": 64,
        "steps": 3,
        "batch": 2,
        "vectors": 2,
        "learning_rate": 0.05,
        "anchor_weight": 0.5,
        "kind": "object",
        "mirror": True,
        "ignore_background": False,
        "seed": 0,
        **changes,
    }
    with torch.inference_mode():
        return pack.run("CompInvTrain", images=images, **{name: [value] for name, value in inputs.items()})


def latent_of(microworld: Any) -> torch.Tensor:
    """What a stock KSampler gives for one seed."""
    import nodes

    model, clip, _ = microworld
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a photo of a cat", ""))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        sampled = nodes.KSampler().sample(model, 5, 3, 4.0, "euler", "normal", positive, negative, latent)[0]
        return sampled["samples"].clone()


def test_a_concept_is_learnt_and_nothing_else_changes(pack: Any, microworld: Any, images: list[torch.Tensor]):
    before, weights = latent_of(microworld), list(microworld[0].model.diffusion_model.parameters())
    concept, plot, preview, best, losses, *_ = train(pack, microworld, images)
    assert concept.vectors["clip_l"].shape == (2, 96)
    assert concept.provenance["steps"] == "3" and len(concept.provenance["model"]) == 12
    assert preview.shape == (2, 64, 64, 3) and plot.shape[-1] == 3
    assert best.vectors["clip_l"].shape == (2, 96) and len(losses["loss"]) == 2
    assert torch.equal(latent_of(microworld), before)
    assert all(a is b for a, b in zip(microworld[0].model.diffusion_model.parameters(), weights, strict=True))


def test_the_node_tells_both_losses_and_where_the_word_lies(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    said: list[str] = []
    learning = sys.modules["compositional_inversion.nodes.learning"]
    monkeypatch.setattr(learning, "say", lambda _, text: said.append(text))
    anchors = sys.modules["compositional_inversion.compinv_core.anchors"].AnchorSet("cat", ("cat",), (1.0,))
    train(pack, microworld, images, anchors=anchors)
    cropped = "3 of 5 images cropped to the largest square in the middle."
    assert said[0] == f"{learning.PREPARING}\n{cropped}" and len(said) == 2
    step, first, second, third, fourth = said[1].split("\n")
    assert step == "step 3/3"
    assert re.fullmatch(
        r"validation loss 0\.\d+, \d+\.\d% (above|below) the initial 0\.\d+; anchor loss [\d.e-]+, cat 1\.00", first
    )
    assert re.fullmatch(
        r"nearest words .*cat.*; norm \d\.\d times a typical word's; outlier percentile \d+ \(distance to the nearest words\)",
        second,
    )
    assert re.fullmatch(r"attention beside a car: \d\.\d\d times the class word's", third) and fourth == cropped
    train(pack, microworld, images)
    assert "anchor" not in said[-1]


def test_anchors_whose_weights_are_learnt_end_few_and_are_told(pack: Any, microworld: Any, images: list[torch.Tensor]):
    with torch.inference_mode():
        anchors = pack.run(
            "CompInvAnchorSelect",
            clip=microworld[1],
            class_word="cat",
            how="my words",
            words="cat, kitten, chair, kite",
            count=4,
            weights="learnt while training",
        )[0]
    concept = train(pack, microworld, images, steps=60, anchors=anchors, anchor_weight=0.9)[0]
    told = dict(part.rsplit(" ", 1) for part in concept.provenance["anchors"].split(", "))
    assert sum(map(float, told.values())) == pytest.approx(1, abs=0.02) and len(told) < 4


@pytest.mark.parametrize(("chosen", "notices"), [("car", 1), ("cat", 0), ("CAT", 0)])
def test_anchors_of_another_class_word_are_told(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any, chosen: str, notices: int
):
    said: list[str] = []
    monkeypatch.setattr(sys.modules["compositional_inversion.nodes.learning"], "say", lambda _, text: said.append(text))
    settings = {"class_word": chosen, "how": "class word only", "words": "", "count": 1}
    anchors = pack.run("CompInvAnchorSelect", clip=microworld[1], **settings)[0]
    train(pack, microworld, images, steps=1, anchors=anchors)
    sentence = 'The anchors are for the class word "car", but training has "cat"; '
    assert sum(sentence in text for text in said) == len(said) * notices


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_an_empty_class_word_is_that_of_the_anchors(
    pack: Any, microworld: Any, images: list[torch.Tensor], weight: float
):
    settings = {"class_word": "car", "how": "class word only", "words": "", "count": 1}
    anchors = pack.run("CompInvAnchorSelect", clip=microworld[1], **settings)[0]
    inputs = {"steps": 1, "anchors": anchors, "anchor_weight": weight}
    empty, written = (train(pack, microworld, images, class_word=word, **inputs)[0] for word in (" ", "car"))
    assert empty.class_word == "car"
    assert torch.equal(empty.vectors["clip_l"], written.vectors["clip_l"])


def test_cancel_keeps_what_was_learnt(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    before, said = latent_of(microworld), notices(monkeypatch)
    settings = {"steps": 1000, "placeholder": "cancelled-one"}

    def begin() -> Any:
        return train(pack, microworld, images, **settings)

    assert steps_of_a_cancelled_run(3, monkeypatch, begin) == 2
    assert torch.equal(latent_of(microworld), before)
    from compositional_inversion.compinv_core.concept import read_concept

    def kept() -> list[str]:
        files = sorted((own_folders / "output" / "embeddings").glob("cancelled-one-unfinished-*.safetensors"))
        return [read_concept(file).provenance["steps"] for file in files]

    assert kept() == ["2"] and "was cancelled after step 2" in said[-1] and "cancelled-one-unfinished-1" in said[-1]
    steps_of_a_cancelled_run(1, monkeypatch, begin)
    assert kept() == ["2", "2"] and "cancelled-one-unfinished-2" in said[-1]


def test_cancel_before_the_first_step_says_that_there_is_nothing(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    said = notices(monkeypatch)
    assert steps_of_a_cancelled_run(1, monkeypatch, lambda: train(pack, microworld, images)) == 0
    assert not (own_folders / "output").exists() and said[-1] == "Training was cancelled before anything was learnt."


def test_a_cancel_that_no_step_meets_ends_the_run_as_well(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    """It comes after a step's last operation of the model."""
    import comfy.model_management as management

    optimizer_step = torch.optim.AdamW.step

    def cancelling(self: Any) -> None:
        optimizer_step(self)
        management.interrupt_current_processing()

    monkeypatch.setattr(torch.optim.AdamW, "step", cancelling)
    with pytest.raises(management.InterruptProcessingException):
        train(pack, microworld, images, placeholder="after-one")
    assert not management.processing_interrupted()
    assert len(list((own_folders / "output" / "embeddings").iterdir())) == 1


def notices(monkeypatch: Any) -> list[str]:
    """What nodes that learn a word say when it ends badly, as it comes."""
    said: list[str] = []
    learning = sys.modules["compositional_inversion.nodes.learning"]
    monkeypatch.setattr(learning, "warn", lambda _, title, notice: said.append(notice))
    return said


def steps_of_a_cancelled_run(number: int, monkeypatch: Any, begin: Callable[[], Any]) -> int:
    """How many steps a run takes where the user presses Cancel in its step of that number."""
    import comfy.model_management as management
    from compositional_inversion.compinv_core.training.task import Task

    backward, begun, taken = Task.backward, list[None](), 0

    def cancelling(*inputs: Any, **named: Any) -> Any:
        nonlocal taken
        begun.append(None)
        if len(begun) == number:
            management.interrupt_current_processing()
        losses = backward(*inputs, **named)
        taken += 1
        return losses

    with monkeypatch.context() as patched:
        patched.setattr(Task, "backward", cancelling)
        with pytest.raises(management.InterruptProcessingException):
            begin()
    assert len(begun) == number
    return taken


def test_what_was_interrupted_goes_on_to_the_same_word(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    import comfy.model_management as management

    runs = own_folders / "user" / "compositional_inversion" / "runs"
    settings = {"steps": 25, "placeholder": "twice-stopped"}

    def begin() -> tuple[Any, ...]:
        return train(pack, microworld, images, **settings)

    undisturbed = begin()
    for number in (7, 11):
        assert steps_of_a_cancelled_run(number, monkeypatch, begin) == number - 1
        assert len(list(runs.iterdir())) == 1
    asked: list[None] = []  # after every step
    monkeypatch.setattr(management, "processing_interrupted", lambda: bool(asked.append(None)))
    again = begin()
    assert torch.equal(again[0].vectors["clip_l"], undisturbed[0].vectors["clip_l"])
    assert again[4] == undisturbed[4] and len(again[4]["loss"]) == 4  # the start's, and those of steps 10, 20 and 25
    assert len(asked) <= 25 - 6 - 10
    assert not list(runs.iterdir())


def test_what_a_forward_would_keep_is_counted_and_not_kept(pack: Any):
    from compositional_inversion.compinv_core.host.model import measuring_saved_activations
    from torch.multiprocessing.reductions import StorageWeakRef

    first, last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    for frozen in (first, last):
        frozen.requires_grad_(False)
    with measuring_saved_activations(first, last) as kept:
        hidden = first(torch.randn(3, 4, requires_grad=True)).relu()
        output = last(hidden).exp()
        storage = StorageWeakRef(hidden.untyped_storage())
        assert not storage.expired()
        del hidden
        assert storage.expired()
        output.sum()
    assert kept() == 4 * (3 * 8 + 3 * 2)  # float32: the outputs of relu and exp, the weights left out
    with measuring_saved_activations(first) as kept:
        last(first(torch.randn(3, 4, requires_grad=True)))
    assert kept() == 4 * 8 * 2  # the other's weights


def test_short_memory_changes_the_way_but_not_the_word(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any, caplog: Any
):
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    plenty = train(pack, microworld, images)[0].vectors["clip_l"]
    monkeypatch.setattr(ComfyBackbone, "free_memory", lambda self: 1e4)
    with caplog.at_level("INFO"):
        short = train(pack, microworld, images)[0].vectors["clip_l"]
    # Sums in other parts, of which AdamW makes a whole step where a gradient is next to nothing.
    assert (short - plenty).abs().mean() < 1e-6
    assert "micro-batches of 1 (batch 2); gradient checkpointing on" in caplog.text


def test_a_backward_goes_through_weights_however_they_were_moved(pack: Any):
    """Those of a LoRA are frozen from the start, and made in inference mode they stay without a version, wherever they go."""
    from compositional_inversion.compinv_core.host.model import frozen_weights

    with torch.inference_mode():
        layer = torch.nn.Linear(3, 3).requires_grad_(False)
    layer.to(torch.float64)
    assert not layer.weight.is_inference()
    inputs, before = torch.ones(1, 3, dtype=torch.float64, requires_grad=True), layer.weight
    with frozen_weights(layer):
        layer(inputs).sum().backward()
    assert torch.equal(inputs.grad, before.sum(0, keepdim=True)) and layer.weight is before


def test_a_model_that_a_preview_evicts_is_brought_back_as_it_was(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    """With a LoRA, as a small GPU does it: its weights go when the model goes, and come back with it."""
    import comfy.model_management as management

    model, clip, vae = microworld
    management.unload_all_models()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    before = model.model.state_dict()[key].clone()
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.full_like(before, 0.1),))})
    preview, evicted = ConceptTraining.preview, list[int]()

    def evicting(self: Any, parameters: Any) -> Any:
        picture = preview(self, parameters)
        with torch.inference_mode():  # as the server runs what evicts a model
            evicted.append(len(management.free_memory(1e30, torch.device("cpu"))))
        return picture

    settings = {"steps": 12, "learning_rate": 0.3}
    undisturbed = train(pack, (patched, clip, vae), images, **settings)[0].vectors["clip_l"]
    monkeypatch.setattr(ConceptTraining, "preview", evicting)
    monkeypatch.setattr(Recipe, "previews", Recipe.evaluates)  # more of them than so short a run has
    word = train(pack, (patched, clip, vae), images, **settings)[0].vectors["clip_l"]
    assert len(evicted) > 1 and min(evicted) > 1 and torch.equal(word, undisturbed)
    assert not torch.equal(word, train(pack, microworld, images, **settings)[0].vectors["clip_l"])
    with torch.inference_mode():
        management.unload_all_models()
    assert torch.equal(model.model.state_dict()[key], before)


@pytest.mark.parametrize(
    ("concept", "word", "hue"), [("mittens", "cat", 151), ("flyer", "kite", 273), ("canopy", "umbrella", 85)]
)
def test_the_class_words_attention_finds_the_thing(pack: Any, microworld: Any, concept: str, word: str, hue: float):
    """The things are known by their hues, which their owners' wallpapers lack."""
    pictures = pictures_of(concept)
    settings = {"class_word": word, "steps": 1, "ignore_background": True}
    learnt = train(pack, microworld, pictures, **settings)[5]
    assert learnt.shape == (5, 64, 64)
    for picture, mask in zip(pictures, learnt, strict=True):
        small = Image.fromarray((picture[0].numpy() * 255).astype(np.uint8)).resize((64, 64)).convert("HSV")
        away = abs((np.asarray(small, np.float32)[..., 0] * 360 / 256 - hue + 180) % 360 - 180)
        thing = torch.from_numpy(away < 12)
        assert mask[thing].mean() > 2 * mask[~thing].mean()


def options(pack: Any, **changes: Any) -> Any:
    inputs = {
        "preset": "as set on the training node",
        "anchor_schedule": "constant",
        "noise_levels": "even",
        "rescale": False,
        "prompts": "",
        **changes,
    }
    return pack.run("CompInvTrainingOptions", **{k: v if isinstance(v, list) else [v] for k, v in inputs.items()})[0]


def test_options_as_they_are_change_nothing_and_others_do(pack: Any, microworld: Any, images: list[torch.Tensor]):
    words = [
        train(pack, microworld, images, **extra)[0].vectors["clip_l"]
        for extra in (
            {},
            {"options": options(pack)},
            {"options": options(pack, rescale=True)},
            {"options": options(pack, noise_levels="high")},
            {"options": options(pack, prompts="a drawing of {}\na sketch of a {} by the sea")},
            {"options": options(pack, captions=[f"a photo of {{}} number {i}" for i in range(5)])},
        )
    ]
    assert torch.equal(words[0], words[1])
    for i, word in enumerate(words[1:]):
        assert not any(torch.equal(word, other) for other in words[i + 2 :])


def test_the_node_tells_in_which_image_it_looks_for_the_concept(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    said: list[str] = []
    learning = sys.modules["compositional_inversion.nodes.learning"]
    monkeypatch.setattr(learning, "say", lambda _, text: said.append(text.splitlines()[0]))
    train(pack, microworld, images[:3], ignore_background=True, mirror=False)
    assert said[1:4] == [learning.FINDING.format(number, 3) for number in (1, 2, 3)] and said[4] == "step 3/3"


def test_what_is_looked_at_is_asked_for_and_what_is_learnt_is_shown_in_the_images(
    pack: Any, microworld: Any, images: list[torch.Tensor]
):
    asked = {"options": options(pack, preview_prompts="a {} at night\n\n"), "ignore_background": True}
    *_, preview, _, _, learnt, _, shown = train(pack, microworld, images, **asked)
    assert preview.shape == (1, 64, 64, 3)
    whole = train(pack, microworld, images, ignore_background=False)[-1]
    assert shown.shape == whole.shape == (5, 64, 64, 3)
    torch.testing.assert_close(shown, whole * (0.2 + 0.8 * learnt.cpu()[..., None]))
    assert shown.mean() < 0.8 * whole.mean()


def test_the_papers_preset_takes_the_place_of_the_nodes_settings(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    training, made = sys.modules["compositional_inversion.nodes.train"], list[Any]()
    monkeypatch.setattr(
        training.CompInvTrain, "_run", classmethod(lambda cls, run: made.append(run) or SimpleNamespace(args=()))
    )
    anchors = sys.modules["compositional_inversion.compinv_core.anchors"].AnchorSet("cat", ("cat", "cup"), (0.5, 0.5))
    train(pack, microworld, images, anchors=anchors, options=options(pack, preset="paper"), seed=7)
    (run,) = made
    recipe = run.recipe
    assert (recipe.steps, recipe.batch, recipe.learning_rate, recipe.seed) == (5000, 8, 0.04, 7)
    assert (recipe.reconstruction_weight, recipe.anchor_weight) == (0.05, 0.95)
    (word,) = run.words
    assert word.anchors.words == ("cat",) and word.start["clip_l"].shape[0] == 3
    assert run.examples[0].prompts[0] == "a photo of a embedding:my-mittens cat"


def test_the_optimizer_of_the_options_is_the_recipes(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    training, made = sys.modules["compositional_inversion.nodes.train"], list[Any]()
    monkeypatch.setattr(
        training.CompInvTrain, "_run", classmethod(lambda cls, run: made.append(run) or SimpleNamespace(args=()))
    )
    for chosen in (
        {},
        {"optimizer": "AdamW"},
        {"optimizer": "sphere (DTI)"},
        {"optimizer": "sphere (DTI)", "preset": "paper"},
    ):
        train(pack, microworld, images, options=options(pack, **chosen))
    assert [run.recipe.optimizer for run in made] == ["AdamW", "AdamW", "sphere", "AdamW"]


def training(pack: Any, microworld: Any, **changes: Any) -> Any:
    """Of a plain picture."""
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    settings = {"name": "plain", "class_word": "cat", "images": [torch.ones(1, 64, 64, 3)], "resolution": 64, **changes}
    return ConceptTraining(ComfyBackbone(*microworld), [Request(**settings)], Recipe(1))


@pytest.mark.parametrize("count", [1, 3])
def test_a_previews_dominance_is_1_for_the_class_word_itself_and_more_for_it_thrice(
    pack: Any, microworld: Any, count: int
):
    learning = training(pack, microworld, vectors=count)
    preview = learning.preview(learning.way.start())
    assert preview.images.shape == (2, 64, 64, 3)
    assert preview.dominance == pytest.approx(1) if count == 1 else preview.dominance > 1.1


@pytest.mark.parametrize("node", ["PatchModelAddDownscale", "SelfAttentionGuidance"])
def test_patches_of_the_model_are_told_what_a_sampler_tells_them(
    pack: Any, microworld: Any, images: list[torch.Tensor], node: str
):
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    model, clip, vae = microworld
    with torch.inference_mode():
        patched = {
            "PatchModelAddDownscale": lambda: PatchModelAddDownscale.execute(
                model, 1, 2.0, 0.0, 1.0, True, "bicubic", "bicubic"
            ),
            "SelfAttentionGuidance": lambda: SelfAttentionGuidance.execute(model, 0.5, 2.0),
        }[node]().result[0]
    word, plain = (train(pack, (m, clip, vae), images)[0].vectors["clip_l"] for m in (patched, model))
    assert word.isfinite().all() and torch.equal(word, plain) == (
        node == "SelfAttentionGuidance"
    )  # which samples alone


def test_patches_are_told_the_noise_level(pack: Any, microworld: Any):
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.model import predictor

    told: list[dict[str, Any]] = []
    patched = microworld[0].clone()
    patched.set_model_input_block_patch(lambda h, options: told.append(options) or h)
    timesteps = torch.tensor([10, 700])
    with torch.inference_mode():
        text = Encoded(torch.zeros(2, 77, 96), torch.zeros(2, 96))
        predictor(patched)(torch.zeros(2, 4, 8, 8), timesteps, text)
    sampling = patched.get_model_object("model_sampling")
    assert torch.allclose(told[0]["sigmas"], sampling.sigma(timesteps))
    assert (told[0]["sample_sigmas"].diff() < 0).all() and told[0]["sigmas"][0] in told[0]["sample_sigmas"]
    assert len(told[0]["uuids"]) == len(told[0]["cond_or_uncond"]) == 1


def test_a_wrapper_of_the_model_that_training_cannot_heed_is_named(
    pack: Any, microworld: Any, images: list[torch.Tensor], caplog: Any
):
    model, clip, vae = microworld
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
    train(pack, (wrapped, clip, vae), images, steps=1)
    assert "training does without it" in caplog.text


@contextmanager
def short_of_memory(model: Any, fits: Callable[[int, bool], bool]) -> Generator[None]:
    """For its time, a step's memory suffices only where `fits(images, whether gradients are checkpointed)`."""
    unet = model.model.diffusion_model

    def full(module: Any, inputs: Any, named: Any) -> None:
        checkpointed = any("forward" in vars(part) for part in unet.modules())
        if named["context"].requires_grad and not fits(len(inputs[0]), checkpointed):
            raise torch.cuda.OutOfMemoryError("out of memory")

    hook = unet.register_forward_pre_hook(full, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_where_memory_runs_out_fewer_images_go_through_together(pack: Any, microworld: Any, images: list[torch.Tensor]):
    undisturbed = train(pack, microworld, images, steps=12, batch=4)[0].vectors["clip_l"]
    seen: list[tuple[int, bool]] = []

    def fits(count: int, checkpointed: bool) -> bool:
        seen.append((count, checkpointed))
        return checkpointed or len(seen) == 1  # the first is the estimate's

    with short_of_memory(microworld[0], fits):
        word = train(pack, microworld, images, steps=12, batch=4)[0].vectors["clip_l"]
    assert seen[:6] == [(1, False), (4, False), (2, False), (1, False), (1, True), (1, True)]
    assert torch.allclose(word, undisturbed, atol=1e-5)  # sums in other parts


def test_out_of_memory_says_what_to_lower_and_changes_nothing(pack: Any, microworld: Any, images: list[torch.Tensor]):
    before, calls = latent_of(microworld), list[None]()

    def fits(*_: Any) -> bool:
        calls.append(None)
        return len(calls) < 12

    with short_of_memory(microworld[0], fits), pytest.raises(MemoryError, match="Lower the resolution"):
        train(pack, microworld, images, steps=12, placeholder="too-large")
    assert torch.equal(latent_of(microworld), before)


def test_weights_that_come_and_go_are_loaded_anew_to_stay(
    pack: Any, microworld: Any, images: list[torch.Tensor], monkeypatch: Any
):
    undisturbed = train(pack, microworld, images)[0].vectors["clip_l"]
    model, clip, vae = microworld
    mine = clip.clone()
    unet, mine.patcher = dynamic(model), dynamic(clip.patcher)
    used = set[Any]()
    watched = [
        part.register_forward_pre_hook(lambda module, _: used.add(module))
        for part in (unet.model.diffusion_model, clip.cond_stage_model)
    ]
    try:
        word = train(pack, (unet, mine, vae), images)[0].vectors["clip_l"]
    finally:
        for hook in watched:
            hook.remove()
    assert used and not used & {unet.model.diffusion_model, clip.cond_stage_model}
    assert torch.equal(word, undisturbed) and (type(unet).asked, type(mine.patcher).asked) == (1, 1)
    monkeypatch.setattr(unet, "cached_patcher_init", None)
    with pytest.raises(ValueError, match=r"loader of another pack.*--disable-dynamic-vram"):
        train(pack, (unet, mine, vae), images)


def test_what_touches_the_placeholder_is_set_apart(pack: Any, microworld: Any, images: list[torch.Tensor]):
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone
    from compositional_inversion.compinv_core.training.examples import filled

    prompts = ("a photo of {}.", 'a "{}" thing', "(a {}:1.2)", "({})", "{}, a photo", "{}'s tail", "see embedding:{}!")
    settings = options(pack, prompts="\n".join(prompts))
    concept = train(pack, microworld, images, steps=1, options=settings)[0]
    assert concept.vectors["clip_l"].shape == (2, 96)
    texts = [filled(prompt, "embedding:mine") for prompt in prompts]
    assert texts[0] == "a photo of embedding:mine ." and texts[-1] == "see embedding:mine !"
    prepared = ComfyBackbone(*microworld).prepare([(text, "mine") for text in texts], {"mine": 2})
    assert len(prepared.positions["clip_l"]) == 7


def test_a_finished_concept_is_gone_on_with(pack: Any, microworld: Any, images: list[torch.Tensor]):
    from compositional_inversion.compinv_core.concept import Concept

    first = train(pack, microworld, images)[0]
    second = train(pack, microworld, images, start_from=first, vectors=5, learning_rate=0.01, seed=1)[0]
    moved, anew = (
        second.vectors["clip_l"] - v
        for v in (
            first.vectors["clip_l"],
            train(pack, microworld, images, learning_rate=0.01, seed=1)[0].vectors["clip_l"],
        )
    )
    assert 0 < moved.norm() < anew.norm()
    with pytest.raises(ValueError, match="another family of models"):
        train(pack, microworld, images, start_from=Concept("other", {"clip_l": torch.zeros(1, 768)}))


def test_a_run_that_fails_at_its_end_is_gone_on_with(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    settings = {"steps": 23, "placeholder": "late-failure"}
    undisturbed, before = train(pack, microworld, images, **settings)[0].vectors["clip_l"], latent_of(microworld)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(ConceptTraining, "preview", lambda *_: 1 / 0)
        train(pack, microworld, images, **settings)
    assert torch.equal(latent_of(microworld), before)
    assert len(list((own_folders / "user" / "compositional_inversion" / "runs").iterdir())) == 1
    again = train(pack, microworld, images, **settings)
    assert torch.equal(again[0].vectors["clip_l"], undisturbed) and len(again[4]["loss"]) == 4


@contextmanager
def room_on_disk(size: int) -> Generator[None]:
    """For its time, no file can have more bytes than this: the writes of others fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_is_named_by_its_model_too(pack: Any, microworld: Any):
    def name() -> str:
        return training(pack, microworld).name

    first, weight = name(), microworld[0].model.diffusion_model.get_parameter("out.2.weight")
    with torch.inference_mode():
        before = weight.clone()
        weight += 0.01
        other = name()
        weight.copy_(before)
    assert first != other and first == name()


def test_a_full_disk_does_not_cost_what_is_learnt(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, caplog: Any
):
    settings = {"steps": 12, "placeholder": "without-room"}
    undisturbed = train(pack, microworld, images, **settings)[0].vectors["clip_l"]
    with room_on_disk(4096):
        learnt = train(pack, microworld, images, **settings)[0]
    assert torch.equal(learnt.vectors["clip_l"], undisturbed)
    assert "The run cannot be kept: " in caplog.text
    assert not list((own_folders / "user" / "compositional_inversion" / "runs").iterdir())


def test_what_was_cancelled_on_a_full_disk_says_so(
    pack: Any, microworld: Any, images: list[torch.Tensor], own_folders: Path, monkeypatch: Any
):
    said = notices(monkeypatch)
    with room_on_disk(100):
        steps_of_a_cancelled_run(3, monkeypatch, lambda: train(pack, microworld, images))
    assert "after step 2; what was learnt till then could not be kept: " in said[-1]
    assert not list((own_folders / "output" / "embeddings").iterdir())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_word": "xylophone"}, '"xylophone" is not a single token'),
        ({"class_word": " "}, '"class_word" is empty and no anchors are connected; write one ordinary word'),
        ({"placeholder": "cat"}, "ordinary word"),
        ({"placeholder": "my cat"}, "without spaces"),
        ({"placeholder": "../cat"}, "without spaces or folders"),
        ({"vectors": 16, "placeholder": "long-one", "masks": torch.ones(1, 64, 64)}, "masks"),
    ],
)
def test_nonsense_is_refused_before_it_starts(
    pack: Any, microworld: Any, images: list[torch.Tensor], changes: dict[str, Any], sentence: str
):
    with pytest.raises(ValueError, match=sentence):
        train(pack, microworld, images, **changes)


def test_a_model_and_clip_that_do_not_match_are_refused(
    pack: Any, microworld: Any, images: list[torch.Tensor], sd1: Any
):
    with pytest.raises(ValueError, match="MODEL and CLIP do not match"):
        train(pack, microworld, images, clip=sd1)


def test_the_gradient_is_that_of_diffusers(pack: Any, microworld: Any):
    """Same weights, latents, noise, timesteps; UNet and text encoder of diffusers and transformers, float32."""
    import comfy.utils
    from compositional_inversion.compinv_core.host import text_gradient
    from compositional_inversion.compinv_core.host.latents import noise_schedule
    from compositional_inversion.compinv_core.host.model import frozen_weights, predictor
    from compositional_inversion.compinv_core.training.objective import diffusion_loss
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    model, clip, _ = microworld
    unet_config = model.model.model_config.unet_config
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=96,
        attention_head_dim=4,  # diffusers' name for the number of heads
    )
    ours = {k: v.detach().clone() for k, v in model.model.diffusion_model.state_dict().items()}
    mapping = {k: v for k, v in comfy.utils.unet_to_diffusers(unet_config).items() if v in ours}
    unet.load_state_dict({theirs: ours[mine] for theirs, mine in mapping.items()}, strict=True)

    torch.manual_seed(3)
    vectors = torch.randn(2, 96) * 0.1
    transformer = clip.cond_stage_model.clip_l.transformer
    table = transformer.get_input_embeddings().weight.detach().clone().float()
    words = len(table)
    config = CLIPTextConfig(
        vocab_size=words + 2,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=words - 1,
        bos_token_id=words - 2,
        pad_token_id=words - 1,
    )
    text = CLIPTextModel(config)
    state = {k: v.detach().clone().float() for k, v in transformer.state_dict().items()}
    state["text_model.embeddings.token_embedding.weight"] = torch.cat([table, vectors])
    names = text.state_dict().keys()
    prefix = "" if any(name.startswith("text_model.") for name in names) else "text_model."
    text.load_state_dict({name: state[prefix + name] for name in names if prefix + name in state}, strict=False)

    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    steps = torch.tensor([120, 840])
    prompts = ["a photo of a embedding:probe", "a rendering of the embedding:probe"]
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        prepared = text_gradient.prepare(clip, [(prompt, "probe") for prompt in prompts], {"probe": 2})
        trained = vectors.clone().requires_grad_()
        weights = frozen_weights(model.model.diffusion_model, transformer)
        with weights, text_gradient.differentiable(clip):
            encoded = text_gradient.encode_prepared(clip, prepared, [0, 1], {"probe": {"clip_l": trained}})
            loss = diffusion_loss(predictor(model), noise_schedule(model), latents, noise, steps, encoded).mean()
            (gradient,) = torch.autograd.grad(loss, trained)

    rows: list[list[int]] = []
    for prompt in prompts:
        tokens = [t for t, _ in clip.tokenize(prompt.replace(" embedding:probe", ""))["l"][0]]
        at = tokens.index(words - 1)
        rows.append([*tokens[:at], words, words + 1, *tokens[at:]][:77])
    embedding = text.get_input_embeddings()
    embedding.weight.requires_grad_()
    hidden = text(torch.tensor(rows)).last_hidden_state
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    output = unet(scheduler.add_noise(latents, noise, steps), steps, hidden).sample
    expected_loss = torch.nn.functional.mse_loss(output, noise)
    expected_loss.backward()
    expected = embedding.weight.grad[words:]

    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    # Float32 through some forty layers in another order of summation: 1e-4 of the gradient's own size.
    assert (gradient - expected).norm() < 1e-4 * expected.norm()
