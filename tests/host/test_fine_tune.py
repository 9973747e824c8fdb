"""A fine-tune on the real host: nothing is left changed, patches stay in force, half precision, cancelling, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tunes import fine_tune, node_module, pictures_of, small_fine_tune
from safetensors.torch import load_file
from torch import Tensor

WHAT = {"keys and values": "keys and values (Custom Diffusion)", "attention": "LoRA on attention (DreamBooth)", "whole UNet": "whole UNet (DreamBooth)"}  # fmt: skip
KEY = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return pictures_of("mittens")


def latent_of(loaded: Any) -> Tensor:
    """What a stock KSampler gives for one seed."""
    import nodes

    model, clip, _ = loaded
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a photo of a cat", ""))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        sampled = nodes.KSampler().sample(model, 5, 3, 4.0, "euler", "normal", positive, negative, latent)[0]
        return sampled["samples"].clone()


def loaded_anew(base: Path, dtype: torch.dtype | None = None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the micro world of one's own; the UNet computes in `dtype`."""
    import comfy.sd

    file = base / "models" / "checkpoints" / "microworld.safetensors"
    options = {} if dtype is None else {"dtype": dtype}
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(file), model_options=options)
    if dtype is not None:
        model.model.manual_cast_dtype = None  # where the CPU would rather have float32
    return model, clip, vae


def training(loaded: Any, images: list[Tensor], steps: int, what: str = "keys and values", **changes: Any) -> Any:
    """A run, as a node makes it; changes are of the `FineTuneRequest`."""
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone
    from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
    from compositional_inversion.compinv_core.training.recipe import Recipe
    from compositional_inversion.compinv_core.training.request import FineTuneRequest, Request

    request = Request("my-mittens", "cat", images, vectors=1, resolution=64)
    return ConceptTraining(
        ComfyBackbone(*loaded),
        [request],
        Recipe(steps, 2, weights_learning_rate=0.01),
        FineTuneRequest(what=what, **changes),
    )


@pytest.mark.parametrize("what", list(WHAT))
def test_changes_of_zero_change_no_bit(what: str, microworld: Any):
    model, clip, _ = microworld
    small = small_fine_tune(model, clip, what, 4 if what == "attention" else 0)
    generator = torch.Generator().manual_seed(0)
    noisy, steps = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([9, 700])
    with torch.inference_mode():
        text = small.way.encode_ordinary([0, 1])
        plain = small.backbone.predict(noisy, steps, text)
        with small.backbone.changed(small.way.changes(small.way.start())):
            assert torch.equal(small.backbone.predict(noisy, steps, text), plain)
        with small.backbone.changed(small.way.changes(small.leaves)):
            assert not torch.equal(small.backbone.predict(noisy, steps, text), plain)
            with small.backbone.unchanged():
                assert torch.equal(small.backbone.predict(noisy, steps, text), plain)


def as_a_run(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run()


def as_an_error(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    after_steps(monkeypatch, 2, lambda: (_ for _ in ()).throw(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        run()


def as_a_cancel(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as management

    after_steps(monkeypatch, 2, management.interrupt_current_processing)
    with pytest.raises(management.InterruptProcessingException):
        run()


def as_out_of_memory(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory(monkeypatch, after=6)
    sentence = r'Training "my-mittens" ran out of memory with gradient checkpointing and micro-batches of 1\. Lower the resolution'
    with pytest.raises(MemoryError, match=sentence):
        run()


def after_steps(monkeypatch: pytest.MonkeyPatch, count: int, happens: Callable[[], Any]) -> None:
    """From now on, this happens when that many steps were taken, at the beginning of the next."""
    from compositional_inversion.compinv_core.training.task import Task

    backward, begun = Task.backward, list[None]()

    def counting(*inputs: Any, **named: Any) -> Any:
        begun.append(None)
        if len(begun) == count + 1:
            happens()
        return backward(*inputs, **named)

    monkeypatch.setattr(Task, "backward", counting)


def out_of_memory(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on, no forward for a backward fits after so many."""
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    predict, calls = ComfyBackbone.predict, list[None]()

    def small(self: Any) -> Any:
        whole = predict.fget(self)

        def predicting(noisy: Tensor, timesteps: Tensor, prompts: Any) -> Tensor:
            calls.append(None)
            if torch.is_grad_enabled() and len(calls) > after:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return whole(noisy, timesteps, prompts)

        return predicting

    monkeypatch.setattr(ComfyBackbone, "predict", property(small))


@pytest.mark.parametrize("end", [as_a_run, as_an_error, as_a_cancel, as_out_of_memory])
@pytest.mark.parametrize("what", ["keys and values", "whole UNet"])
def test_the_model_is_left_as_it_was(
    what: str,
    end: Callable[..., None],
    pack: Any,
    microworld: Any,
    images: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
):
    """Its prediction and its weights, bit by bit, and its very tensors; and no function stays on its modules."""
    unet = microworld[0].model.diffusion_model
    latent, weights = latent_of(microworld), dict(unet.named_parameters())
    values = {name: weight.clone() for name, weight in weights.items()}
    own = [set(vars(module)) for module in unet.modules()]
    with monkeypatch.context() as patched:
        end(lambda: fine_tune(pack, microworld, images, what=WHAT[what], steps=12), patched)
    assert torch.equal(latent_of(microworld), latent)
    for name, weight in unet.named_parameters():
        assert weight is weights[name] and torch.equal(weight, values[name]) and weight.is_inference()
    for module, before in zip(unet.modules(), own, strict=True):
        assert set(vars(module)) == before
        assert not getattr(module, "weight_function", None) and not getattr(module, "bias_function", None)


def test_a_lora_on_the_model_stays_in_force(
    pack: Any, base: Path, microworld: Any, images: list[Tensor], tmp_path: Path
):
    """The gradient is that of a model which has the LoRA in its weights."""
    model, clip, vae = microworld
    shape = model.model.diffusion_model.get_parameter(KEY).shape
    delta = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    patched, baked = model.clone(), loaded_anew(base)
    patched.add_patches({f"diffusion_model.{KEY}": ("diff", (delta,))})
    with torch.inference_mode():
        baked[0].model.diffusion_model.get_parameter(KEY).add_(delta)
    with_lora, expected, without = (
        first_gradient(loaded, images, tmp_path / str(i), "keys and values", 0)
        for i, loaded in enumerate(((patched, clip, vae), baked, microworld))
    )
    assert torch.equal(with_lora, expected)
    assert (without - expected).norm() > 0.01 * expected.norm()


def test_what_is_learnt_does_not_depend_on_what_was_loaded_before(pack: Any, microworld: Any, images: list[Tensor]):
    """The unit of a weight's learning rate is its own size, not that with the LoRA of another branch of the graph."""
    model, clip, vae = microworld
    latent_of(microworld)
    first = fine_tune(pack, microworld, images)[1]
    patched = model.clone()
    patched.add_patches(
        {f"diffusion_model.{KEY}": ("diff", (torch.ones_like(model.model.state_dict()[f"diffusion_model.{KEY}"]),))}
    )
    latent_of((patched, clip, vae))
    second = fine_tune(pack, microworld, images)[1]
    assert all(torch.equal(second[key], tensor) for key, tensor in first.items())


def first_gradient(loaded: Any, images: list[Tensor], folder: Path, what: str, rank: int) -> Tensor:
    """Of all changed weights at the first step, as the optimiser meets it."""
    run = training(loaded, images, 1, what, rank=rank)
    end = run.run(folder, lambda: False, lambda _: None)
    rates = list(run.way.learning_rates(run.recipe))
    moments = [end.optimizer["state"][i]["exp_avg"] for i, name in enumerate(rates) if name.startswith("unet/")]
    assert all(moment.dtype == torch.float32 for moment in moments)
    return torch.cat([moment.flatten() for moment in moments])


@pytest.mark.parametrize(
    ("dtype", "least_cosine"), [(torch.float16, 0.99), (torch.bfloat16, 0.95)]
)  # 11 bits and 8 of precision
@pytest.mark.parametrize(("what", "rank"), [("keys and values", 0), ("attention", 4)])
def test_the_gradient_in_half_precision_is_float32s(
    what: str,
    rank: int,
    dtype: torch.dtype,
    least_cosine: float,
    pack: Any,
    base: Path,
    images: list[Tensor],
    tmp_path: Path,
):
    half, single = (
        first_gradient(loaded_anew(base, kind), images, tmp_path / str(kind), what, rank)
        for kind in (dtype, torch.float32)
    )
    cosine = torch.cosine_similarity(half, single, dim=0).item()
    assert half.isfinite().all() and cosine > least_cosine, cosine
    assert half.norm() / single.norm() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_falls_in_half_precision(
    dtype: torch.dtype, pack: Any, base: Path, images: list[Tensor], tmp_path: Path
):
    run = training(loaded_anew(base, dtype), images, 20)
    end = run.run(tmp_path, lambda: False, lambda _: None)
    assert all(value.dtype == torch.float32 for value in end.parameters.values())
    last = end.history[-1].evaluation
    assert last is not None and last < 0.98 * end.initial_loss, (last, end.initial_loss)  # 0.957 was measured


def test_cancelling_keeps_the_embedding_and_the_adapter(
    pack: Any, microworld: Any, images: list[Tensor], own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """And says where both are; the next run goes on from there, and ends as if it had not been cancelled."""
    import comfy.model_management as management
    from compositional_inversion.compinv_core.concept import read_concept

    said: list[str] = []
    learning = __import__("sys").modules[node_module(pack, "CompInvTrainModel").learn.__module__]
    monkeypatch.setattr(learning, "warn", lambda _, title, text: said.append(text))

    def begin() -> tuple[Any, ...]:
        return fine_tune(pack, microworld, images, steps=12, placeholder="stopped")

    undisturbed = begin()
    with monkeypatch.context() as patched, pytest.raises(management.InterruptProcessingException):
        after_steps(patched, 11, management.interrupt_current_processing)
        begin()
    word, adapter = (
        own_folders / "output" / kind / "stopped-unfinished-1.safetensors" for kind in ("embeddings", "loras")
    )
    assert said[-1] == f"Training was cancelled after step 11; what was learnt till then is in {word} and {adapter}."
    assert read_concept(word).provenance["steps"] == "11"
    kept = load_file(adapter)
    assert set(kept) == set(undisturbed[1]) and all(tensor.any() for tensor in kept.values())
    again = begin()
    assert all(torch.equal(again[1][key], tensor) for key, tensor in undisturbed[1].items())
    assert torch.equal(again[0].vectors["clip_l"], undisturbed[0].vectors["clip_l"])
    assert not list((own_folders / "user" / "compositional_inversion" / "runs").iterdir())


def test_class_images_are_not_drawn_again_after_a_cancel(
    pack: Any, microworld: Any, images: list[Tensor], own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    import comfy.model_management as management

    drawn: list[str] = []
    monkeypatch.setattr(node_module(pack, "CompInvTrainModel"), "say", lambda _, text: drawn.append(text))

    def begin() -> tuple[Any, int]:
        drawn.clear()
        learnt = fine_tune(pack, microworld, images, prior="class images", prior_count=2, placeholder="kept")[1]
        return learnt, sum("sampling images" in text for text in drawn)

    undisturbed, count = begin()
    assert count == 1
    with monkeypatch.context() as patched, pytest.raises(management.InterruptProcessingException):
        after_steps(patched, 2, management.interrupt_current_processing)
        begin()
    again, count = begin()
    assert count == 0 and all(torch.equal(again[key], tensor) for key, tensor in undisturbed.items())
    assert not list((own_folders / "user" / "compositional_inversion" / "runs").iterdir())


def test_an_adapter_is_the_nodes_model(pack: Any, microworld: Any, images: list[Tensor]):
    import comfy.sd

    _, lora, tuned, *_ = fine_tune(pack, microworld, images, steps=2)
    model, clip, vae = microworld
    again, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert torch.equal(latent_of((again, clip, vae)), latent_of((tuned, clip, vae)))
    assert not torch.equal(latent_of((tuned, clip, vae)), latent_of(microworld))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rank": 97},
            r'"rank" is 97, but the smallest matrix that is learnt is \d+ x 96; 0 \(full\) to \d+ is allowed',
        ),
        (
            {"prior": "class images", "prior_images": [torch.zeros(0, 64, 64, 3)]},
            'The input "prior_images" holds no image',
        ),
        ({"prior_images": [torch.zeros(1, 64, 64, 3)]}, '"prior_images" is connected, but "prior" is "DCO"'),
        ({"prior": "class images", "prior_count": 0}, "prior_count is 0; 1 or more images of the class are needed"),
        ({"placeholder": "cat"}, "ordinary word"),
        ({"class_word": "xylophone"}, "not a single token of this text encoder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_first_step(
    changes: dict[str, Any],
    sentence: str,
    pack: Any,
    microworld: Any,
    images: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
):
    from compositional_inversion.compinv_core.training.concept_training import ConceptTraining

    monkeypatch.setattr(ConceptTraining, "material", lambda self: pytest.fail("work began"))
    with pytest.raises(ValueError, match=sentence):
        fine_tune(pack, microworld, images, **changes)


def test_a_rank_for_the_whole_unet_is_refused(pack: Any, microworld: Any, images: list[Tensor]):
    with pytest.raises(ValueError, match=r'"rank" is 4, but the whole UNet is learnt in full; only 0 is allowed'):
        training(microworld, images, 1, "whole UNet", rank=4)


def test_a_concept_of_another_family_is_no_start(pack: Any, microworld: Any, images: list[Tensor]):
    from compositional_inversion.compinv_core.concept import Concept

    start = Concept("other", {"clip_l": torch.ones(1, 768)}, "cat")
    with pytest.raises(ValueError, match='The concept "other" is for another family of models'):
        fine_tune(pack, microworld, images, start_from=start)


def test_what_does_not_fit_into_memory_is_refused_with_its_size(
    pack: Any, microworld: Any, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    monkeypatch.setattr(ComfyBackbone, "free_memory", lambda self: 2e7)
    numbers = sum(weight.numel() for weight in microworld[0].model.diffusion_model.parameters()) / 1e6
    sentence = rf"{numbers:.0f} M parameters are to be learnt; with gradients and optimiser state they need 0\.\d GB, and 0\.0 GB are free"
    before = latent_of(microworld)
    with pytest.raises(MemoryError, match=sentence):
        fine_tune(pack, microworld, images, what=WHAT["whole UNet"])
    assert torch.equal(latent_of(microworld), before)
    fine_tune(pack, microworld, images, what=WHAT["attention"], rank=2)  # which the sentence says to choose
