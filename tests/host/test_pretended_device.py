"""Whatever runs on a GPU, on a pretended one: nothing is left on the CPU, and the results are those of the CPU."""

from collections.abc import Generator
from copy import copy
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.task import Task
from pretended import DEVICE, Pretended, pretended_device
from test_layout_training import train as train_predictor
from test_repair import concept as word
from test_repair import repair
from test_report import report
from test_sampling import STEERING, layout, sample
from test_training import pictures_of, train
from test_training_families import FAMILIES, comfy_model


def test_what_lies_on_the_pretended_device_does_not_meet_the_cpu():
    with pretended_device() as device:
        there = torch.ones(3).to(DEVICE)
        assert there.device == DEVICE and (2 * there[1:]).device == DEVICE and there.cpu().device.type == "cpu"
        assert torch.equal((there + torch.zeros(3, device=DEVICE)).cpu(), torch.ones(3))
        with pytest.raises(RuntimeError, match="tensors of the pretended device and, of the CPU"):
            there + torch.ones(3)
        assert device.waits == 3
        assert there.sum().item() == 3 and device.waits == 4


Loaded = tuple[Any, Any, Any]


def _loaded(device: torch.device | None = None) -> Loaded:
    """MODEL, CLIP and VAE of the micro world, which ComfyUI runs on a device."""
    from comfy import model_management as management

    import nodes

    with torch.inference_mode():  # as in the server, and not yet loaded to where it runs
        model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint("microworld.safetensors")
        if device is not None:
            management.unload_all_models()  # the text encoder has been loaded where it was
            model.load_device = clip.patcher.load_device = vae.patcher.load_device = vae.device = device
    return model, clip, vae


@pytest.fixture(scope="module")
def here(pack: Any) -> Loaded:
    return _loaded()


@pytest.fixture
def device(pack: Any, here: Loaded) -> Generator[Pretended]:
    from comfy import model_management as management

    with pretended_device() as device:
        yield device
        with torch.inference_mode():
            management.unload_all_models()


@pytest.fixture
def there(device: Pretended) -> Loaded:
    return _loaded(DEVICE)


def anchors(pack: Any, clip: Any) -> Any:
    wanted = {"how": "my words", "words": "cat, kite", "count": 2, "weights": "learnt while training"}
    return pack.run("CompInvAnchorSelect", clip=clip, class_word="cat", **wanted)[0]


def test_a_word_is_learnt(pack: Any, here: Loaded, there: Loaded):
    """With a search for the thing, weights of anchors, evaluations and previews."""
    pictures = pictures_of("mittens")[:2]
    words = [
        train(
            pack,
            loaded,
            pictures,
            ignore_background=True,
            anchors=anchors(pack, loaded[1]),
            mirror=False,
        )[0].vectors["clip_l"]
        for loaded in (here, there)
    ]
    assert words[1].device.type == "cpu" and torch.equal(*words)


@pytest.fixture
def waits(device: Pretended, monkeypatch: Any) -> list[int]:
    """How often each step of a training to come waits for the device."""
    backward, waited = Task.backward, list[int]()

    def counted(*inputs: Any, **named: Any) -> Any:
        before = device.waits
        result = backward(*inputs, **named)
        waited.append(device.waits - before)
        return result

    monkeypatch.setattr(Task, "backward", counted)
    return waited


def test_a_step_does_not_wait_for_the_device(pack: Any, there: Loaded, waits: list[int]):
    train(pack, there, pictures_of("mittens")[:2], anchors=anchors(pack, there[1]), ignore_background=True)
    assert waits == [0, 0, 0]


def test_two_text_encoders_learn_without_waiting(pack: Any, there: Loaded, sdxl: Any, waits: list[int]):
    """SDXL's shape, which also reads the pooled output and the size."""
    clip, model = copy(sdxl), comfy_model(FAMILIES["sdxl"])
    clip.patcher = sdxl.patcher.clone()
    model.load_device = clip.patcher.load_device = DEVICE
    concept = train(pack, (model, clip, there[2]), pictures_of("mittens")[:2], ignore_background=True)[0]
    assert waits == [0, 0, 0] and all(vectors.isfinite().all() for vectors in concept.vectors.values())


def test_an_interrupted_training_goes_on_there(pack: Any, here: Loaded, there: Loaded, monkeypatch: Any):
    settings = {"steps": 12, "batch": 1, "placeholder": "stopped"}
    pictures = pictures_of("mittens")[:1]
    undisturbed = train(pack, here, pictures, **settings)[0].vectors["clip_l"]
    monkeypatch.setattr(ConceptTraining, "preview", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(pack, there, pictures, **settings)
    monkeypatch.undo()
    assert torch.equal(train(pack, there, pictures, **settings)[0].vectors["clip_l"], undisturbed)


def test_a_model_that_does_not_fit_trains_the_same_word_from_both_memories(
    pack: Any, here: Loaded, there: Loaded, monkeypatch: Any
):
    from comfy import model_management as management

    with torch.inference_mode():
        management.unload_all_models()
    available = management.minimum_inference_memory() + there[0].model_size() // 2
    backward, elsewhere = Task.backward, list[int]()

    def free(device: Any = None, torch_free_too: bool = False) -> Any:
        left = available - sum(patcher.loaded_size() for patcher in (there[0], there[1].patcher, there[2].patcher))
        return (left, left) if torch_free_too else left

    def counted(*inputs: Any, **named: Any) -> Any:
        elsewhere.append(sum(weight.device != DEVICE for weight in there[0].model.diffusion_model.parameters()))
        return backward(*inputs, **named)

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(Task, "backward", counted)
    word = train(pack, there, pictures_of("mittens")[:2], batch=1)[0].vectors["clip_l"]
    assert 0 < elsewhere[0] < len(list(there[0].model.diffusion_model.parameters()))
    monkeypatch.undo()
    assert torch.allclose(word, train(pack, here, pictures_of("mittens")[:2], batch=1)[0].vectors["clip_l"], atol=1e-6)


ALL = {**STEERING, "balance": 0.5}


@pytest.mark.parametrize("method", ["from attention", "default boxes"])
def test_a_layout_is_recovered_and_followed(pack: Any, here: Loaded, there: Loaded, method: str):
    with torch.inference_mode():
        latents = [
            sample(pack, loaded, layout=layout(pack, loaded, method)[0], **ALL)[0]["samples"]
            for loaded in (here, there)
        ]
    assert latents[1].device.type == "cpu" and torch.equal(*latents)


def test_a_word_is_reported_and_repaired(pack: Any, here: Loaded, there: Loaded):
    vectors = torch.randn(2, 96, generator=torch.Generator().manual_seed(1)) / 5
    with torch.inference_mode():
        texts = [report(pack, loaded, vectors, vae=loaded[2])[2] for loaded in (here, there)]
    assert texts[0] == texts[1]
    old = word(pack, {"clip_l": vectors}, "cat")
    new = [repair(pack, loaded, old)[0].vectors["clip_l"] for loaded in (here, there)]
    assert new[1].device.type == "cpu" and torch.equal(*new)


def test_a_layout_predictor_is_learnt(pack: Any, there: Loaded):
    with torch.inference_mode():
        train_predictor(pack, there, prompts=20, steps=2)
        assert layout(pack, there, "predicted")[0].source
