"""What we write loads into diffusers' own pipelines, and a prompt there reads all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.concept import Concept, write_concept
from safetensors.torch import load_file
from torch import Tensor

WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}


def parts(comfyui: Path, key: str) -> tuple[Any, Any]:
    """(tokenizer, text encoder): the real vocabulary and width, one layer deep."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer", model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTHS[key], intermediate_size=64, num_hidden_layers=1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer, (CLIPTextModelWithProjection if key == "clip_g" else CLIPTextModel)(config)


def written(folder: Path, count: int, *keys: str) -> tuple[Path, list[Tensor]]:
    """A concept's file, and the vectors of each text encoder."""
    concept = Concept("my-cat", {key: torch.randn(count, WIDTHS[key]) for key in keys}, "cat", {"steps": "30"})
    write_concept(concept, folder / "my-cat.safetensors")
    return folder / "my-cat.safetensors", list(concept.vectors.values())


def read(pipe: Any, *encoders: Any) -> list[Tensor]:
    """What each text encoder reads of a prompt, from its first word on: three ordinary ones, ours, "on" and "grass"."""
    seen: list[Tensor] = []
    for encoder in encoders:
        encoder.get_input_embeddings().register_forward_hook(lambda module, ids, rows: seen.append(rows[0, 1:]))
    with torch.no_grad():
        pipe.encode_prompt(
            "a photo of my-cat on grass", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert len(seen) == len(encoders)
    return seen


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("key", ["clip_l", "clip_h"])
def test_the_file_of_one_text_encoder_loads_by_its_path(comfyui: Path, tmp_path: Path, key: str, count: int):
    from diffusers import StableDiffusionPipeline

    file, (vectors,) = written(tmp_path, count, key)
    tokenizer, encoder = parts(comfyui, key)
    others = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(text_encoder=encoder, tokenizer=tokenizer, requires_safety_checker=False, **others)
    words = len(tokenizer)
    pipe.load_textual_inversion(file, token="my-cat")
    assert torch.equal(encoder.get_input_embeddings().weight[words:], vectors)
    (rows,) = read(pipe, encoder)
    grass = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(["on</w>", "grass</w>"])]
    assert torch.equal(rows[3 : 3 + count + 2], torch.cat([vectors, grass]))


@pytest.mark.parametrize("count", [1, 3])
def test_the_file_of_sdxl_loads_half_by_half(comfyui: Path, tmp_path: Path, count: int):
    """As diffusers' own guide has it."""
    from diffusers import StableDiffusionXLPipeline

    file, vectors = written(tmp_path, count, "clip_l", "clip_g")
    (tokenizer, first), (tokenizer_2, second) = parts(comfyui, "clip_l"), parts(comfyui, "clip_g")
    pipe = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None, add_watermarker=False,
        text_encoder=first, tokenizer=tokenizer, text_encoder_2=second, tokenizer_2=tokenizer_2,
    )  # fmt: skip
    words, tensors = len(tokenizer), load_file(file)
    pipe.load_textual_inversion(tensors["clip_l"], token="my-cat")
    pipe.load_textual_inversion(tensors["clip_g"], token="my-cat", text_encoder=second, tokenizer=tokenizer_2)
    for encoder, rows, expected in zip((first, second), read(pipe, first, second), vectors, strict=True):
        table = encoder.get_input_embeddings().weight
        assert torch.equal(table[words:], expected)
        assert torch.equal(rows[3 : 3 + count], expected)


def test_diffusers_form_of_one_text_encoder_loads_by_its_own_token(comfyui: Path, tmp_path: Path):
    from compositional_inversion.compinv_core.forms import write_as
    from diffusers import StableDiffusionPipeline

    concept = Concept("any", {"clip_l": torch.randn(3, 768)}, "cat")
    (file,) = write_as(concept, tmp_path / "my-cat.safetensors", "diffusers")
    tokenizer, encoder = parts(comfyui, "clip_l")
    others = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(text_encoder=encoder, tokenizer=tokenizer, requires_safety_checker=False, **others)
    words = len(tokenizer)
    pipe.load_textual_inversion(load_file(file))
    assert torch.equal(encoder.get_input_embeddings().weight[words:], concept.vectors["clip_l"])
    (rows,) = read(pipe, encoder)
    assert torch.equal(rows[3:6], concept.vectors["clip_l"])


def test_diffusers_form_of_sdxl_loads_a_file_for_each_text_encoder(comfyui: Path, tmp_path: Path):
    from compositional_inversion.compinv_core.forms import write_as
    from diffusers import StableDiffusionXLPipeline

    concept = Concept("any", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)})
    files = write_as(concept, tmp_path / "my-cat.safetensors", "diffusers")
    (tokenizer, first), (tokenizer_2, second) = parts(comfyui, "clip_l"), parts(comfyui, "clip_g")
    pipe = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None, add_watermarker=False,
        text_encoder=first, tokenizer=tokenizer, text_encoder_2=second, tokenizer_2=tokenizer_2,
    )  # fmt: skip
    words = len(tokenizer)
    pipe.load_textual_inversion(files[0])
    pipe.load_textual_inversion(files[1], text_encoder=second, tokenizer=tokenizer_2)
    for encoder, expected in zip((first, second), concept.vectors.values(), strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight[words:], expected)
