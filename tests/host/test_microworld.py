"""The trained world is what the other tests' figures rest on: it composes, and the judge can be trusted."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def world(comfyui: Path) -> Any:
    from microworld.spec import DEFAULT_WORLD, load_world

    return load_world(DEFAULT_WORLD)


def present(world: Any, loaded: tuple[Any, Any, Any], asked: list[tuple[str, ...]], seed: int) -> float:
    from microworld.evaluate import paint, phrase
    from microworld.judge import load_judge, verdicts

    images = paint(*loaded, [f"a photo of {phrase(words)}" for words in asked], seed)
    found = verdicts(load_judge(world), world, images)
    return sum(set(words) <= v.present for words, v in zip(asked, found, strict=True)) / len(asked)


def test_one_ordinary_object_is_drawn(world: Any, microworld: Any) -> None:
    assert present(world, microworld, [(word,) for word in world.classes] * 12, seed=31) >= 0.9


def test_two_ordinary_objects_are_drawn(world: Any, microworld: Any) -> None:
    pairs = list(itertools.permutations(world.classes, 2))
    assert present(world, microworld, pairs, seed=47) >= 0.65


def test_a_world_with_another_width_and_prediction_is_drawn_too(comfyui: Path, pack: Any) -> None:
    from microworld.evaluate import load_checkpoint
    from microworld.spec import load_world

    second = load_world(ROOT / "microworld" / "second.toml")
    loaded = load_checkpoint(second.checkpoint)
    assert loaded[0].model.model_type.name == "V_PREDICTION"
    assert present(second, loaded, [(word,) for word in second.classes] * 4, seed=31) >= 0.9
    assert present(second, loaded, list(itertools.combinations(second.classes, 2)), seed=47) >= 0.65


def test_the_judge_finds_a_drawn_thing_and_no_other(world: Any, microworld: Any) -> None:
    """Scenes go through the checkpoint's own autoencoder, as ComfyUI loads it."""
    import numpy as np

    from microworld.judge import judged_scene, load_judge, verdicts
    from microworld.scenes import draw

    random = np.random.default_rng(5)
    scenes = [judged_scene(world, random) for _ in range(192)]
    images = torch.from_numpy(np.stack([draw(world, scene, world.size, world.size) for scene in scenes]))
    _, _, vae = microworld
    with torch.inference_mode():
        seen = vae.decode(vae.encode(images)).clamp(0, 1)
    shown = [{t.word for t in s.things} | {t.concept for t in s.things if t.concept} for s in scenes]
    found = [v.present for v in verdicts(load_judge(world), world, seen)]
    hits = sum(len(a & b) for a, b in zip(shown, found, strict=True))
    assert hits / sum(map(len, shown)) >= 0.93
    assert sum(len(b - a) for a, b in zip(shown, found, strict=True)) / len(scenes) <= 0.2


@pytest.fixture(scope="module")
def untrained(comfyui: Path) -> Any:
    """The second world's diffusion model with random weights, all of which say something, as a checkpoint stores them."""
    from microworld.diffusion import TextToNoise
    from microworld.spec import load_world

    second = load_world(ROOT / "microworld" / "second.toml")
    torch.manual_seed(0)
    model = TextToNoise(second)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
            parameter.copy_(parameter.half())
    return second, model


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_what_comfyui_loads_denoises_as_the_model_did_in_training(
    untrained: Any, pack: Any, tmp_path: Path, prediction: Any
) -> None:
    """Of a spec with another width and vocabulary; the file says what is predicted."""
    import comfy.sd
    import comfy.utils
    from transformers import CLIPTokenizer

    from microworld.autoencoder import Autoencoder
    from microworld.checkpoint import write_checkpoint
    from microworld.diffusion import alphas_cumprod

    second, model = untrained
    file = tmp_path / "second.safetensors"
    write_checkpoint(file, model.state_dict(), Autoencoder(), torch.zeros(()), torch.ones(()), prediction)
    text, step = "a photo of a lime banana and an airplane", 700
    with torch.inference_mode():
        loaded, clip, *_ = comfy.sd.load_state_dict_guess_config(comfy.utils.load_torch_file(str(file)))
        a = alphas_cumprod()[step]
        noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        sigma = ((1 - a) / a).sqrt().reshape(1)
        cond = clip.encode_from_tokens(clip.tokenize(text))
        loaded.model.to(torch.float32)
        denoised = loaded.model.apply_model(noisy / a.sqrt(), sigma, c_crossattn=cond)

        tokenizer = CLIPTokenizer.from_pretrained(second.host_folder / "tokenizer")
        tokens = tokenizer([text], padding="max_length", max_length=77)["input_ids"]
        output, _ = model(noisy, torch.tensor([step]), torch.tensor(tokens))
    assert cond.shape[-1] == second.model.width == 128
    if prediction == "v":
        expected = a.sqrt() * noisy - (1 - a).sqrt() * output
    else:
        expected = (noisy - (1 - a).sqrt() * output) / a.sqrt()
    # The loader computes in single precision, but for the text, which it may encode in half.
    torch.testing.assert_close(denoised, expected, rtol=0, atol=0.01 * expected.abs().max().item())


def test_the_loss_of_v_is_zero_for_what_gives_back_latents_and_noise(comfyui: Path) -> None:
    """v = alpha * noise - sigma * latents, for both of which there is one formula with the noisy latents."""
    from microworld.diffusion import alphas_cumprod, denoising_loss

    random = torch.Generator().manual_seed(2)
    latents, noise = torch.randn(2, 6, 4, 8, 8, generator=random)
    steps = torch.tensor([0, 100, 400, 700, 900, 999])
    alphas = alphas_cumprod()[steps]
    alpha, sigma = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
    noisy, v = alpha * latents + sigma * noise, alpha * noise - sigma * latents
    torch.testing.assert_close(alpha * noisy - sigma * v, latents)
    assert denoising_loss(v, latents, noise, alphas, "v") == 0
    assert denoising_loss(noise, latents, noise, alphas, "epsilon") == 0
    off = 0.3 * torch.randn(v.shape, generator=random)
    # The same wrong guess in either form costs the same, where neither weight is bounded: an error of alpha * e in v's
    # place of e is one of epsilon.
    low = alphas > 1 / 20
    same = [
        denoising_loss((v + off)[low], latents[low], noise[low], alphas[low], "v"),
        denoising_loss((noise + alpha * off)[low], latents[low], noise[low], alphas[low], "epsilon"),
    ]
    torch.testing.assert_close(*same)


def test_a_world_that_starts_from_another_learns_its_words_and_what_is_predicted_anew(untrained: Any) -> None:
    from safetensors.torch import load_file

    from microworld.diffusion import TextToNoise

    second, _ = untrained
    torch.manual_seed(5)
    fresh = TextToNoise(second)
    torch.manual_seed(5)
    model = TextToNoise(second)
    model.take_over(second.model.start)
    first = load_file(second.model.start)
    anew = {
        name
        for (name, mine), (_, other) in zip(model.state_dict().items(), fresh.state_dict().items(), strict=True)
        if torch.equal(mine, other)
    }
    for name, value in model.state_dict().items():
        source = first.get(name.replace("unet.", "model.diffusion_model."))
        if name in anew:
            assert source is None or "attn2.to_" in name or name.startswith("unet.out.2"), name
        else:
            assert torch.equal(value, source.float()), name
    assert "unet.input_blocks.0.0.weight" not in anew
    assert "text.text_model.encoder.layers.0.self_attn.q_proj.weight" in anew


def test_the_describer_tells_a_close_up_from_a_small_thing_and_half_of_the_patterns(world: Any) -> None:
    from microworld.describer import accuracy, load_describer, world_autoencoder

    said = accuracy(load_describer(world), world, world_autoencoder(world), 128, seed=3)
    assert said["pattern"] >= 0.55 and said["extent"] <= 0.03
