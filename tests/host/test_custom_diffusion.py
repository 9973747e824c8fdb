"""Custom Diffusion's own files, by diffusers' code and in adobe's layout, loaded as the node loads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tunes import loras_in
from safetensors.torch import save_file
from test_adapter_files import error, predicted, with_weights
from test_training_families import FAMILIES, comfy_model, diffusers_unet
from torch import Tensor


@pytest.fixture
def loras(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return loras_in(own_folders, monkeypatch)


def load(pack: Any, model: Any, file: Path, class_word: str = "cat") -> tuple[Any, ...]:
    """Concept, adapter, model, what was found, second concept."""
    with torch.inference_mode():
        return pack.run("CompInvLoadAdapter", model=model, file=file.name, class_word=class_word)


def changed_weights(unet: Any, parts: tuple[str, ...] = ("to_k", "to_v")) -> dict[str, Tensor]:
    """Diffusers' name of each weight -> its change, a random one."""
    generator = torch.Generator().manual_seed(2)
    endings = tuple(f"attn2.{part}.weight" for part in parts)
    return {
        name: 0.1 * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=generator)
        for name, weight in unet.state_dict().items()
        if name.endswith(endings)
    }


def saved_by_diffusers(unet: Any, deltas: dict[str, Tensor], folder: Path, queries: bool, safe: bool) -> Path:
    """As its training script ends: its processors with the new weights, and `save_attn_procs`."""
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

    processors = dict(unet.attn_processors)
    for name in processors:
        block = name.removesuffix(".processor")
        if not block.endswith("attn2"):
            processors[name] = CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
            continue
        module = unet.get_submodule(block)
        inner, width = module.to_k.weight.shape
        processor = CustomDiffusionAttnProcessor(
            train_kv=True, train_q_out=queries, hidden_size=inner, cross_attention_dim=width
        )
        with torch.no_grad():
            for own, theirs in (("to_k", "to_k"), ("to_v", "to_v"), ("to_q", "to_q"), ("to_out.0", "to_out")):
                if f"{block}.{own}.weight" not in deltas:
                    continue
                layer = getattr(processor, f"{theirs}_custom_diffusion")
                layer = layer[0] if theirs == "to_out" else layer
                layer.weight.copy_(module.get_submodule(own).weight + deltas[f"{block}.{own}.weight"])
                if layer.bias is not None:
                    layer.bias.copy_(module.get_submodule(own).bias)
        processors[name] = processor
    unet.set_attn_processor(processors)
    unet.save_attn_procs(folder, safe_serialization=safe)
    return folder / f"pytorch_custom_diffusion_weights.{'safetensors' if safe else 'bin'}"


@pytest.mark.parametrize(("queries", "safe"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_file_of_diffusers_gives_the_model_with_its_weights(
    name: str, queries: bool, safe: bool, pack: Any, loras: Path
):
    from compositional_inversion.compinv_core.host.weights import diffusers_paths

    family = FAMILIES[name]
    model = comfy_model(family, depth=1)
    unet, names = diffusers_unet(family, model, depth=1), diffusers_paths(model)
    deltas = changed_weights(unet, ("to_k", "to_v", "to_q", "to_out.0") if queries else ("to_k", "to_v"))
    file = saved_by_diffusers(unet, deltas, loras, queries, safe)
    concept, _, tuned, found, _ = load(pack, model, file)
    expected = predicted(with_weights(family, {names[key]: delta for key, delta in deltas.items()}, 1.0), family)
    # Weights are given, changes wanted: their difference is rounded once, and once more where it is added.
    assert error(predicted(tuned, family), expected) < 1e-5 < error(predicted(model, family), expected)
    biases = 4 * queries  # of to_out, which are given although they are not changed
    assert f"no embedding; {len(deltas) + biases} matrices" in found
    assert "load the others with Load Concept" in concept.message


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_of_adobe_gives_its_words_and_the_model_with_its_weights(compressed: bool, pack: Any, loras: Path):
    from compositional_inversion.compinv_core.host.weights import diffusers_paths

    family = FAMILIES["sd1"]
    model = comfy_model(family, depth=1)
    unet, names = diffusers_unet(family, model, depth=1), diffusers_paths(model)
    deltas, weights = changed_weights(unet), unet.state_dict()
    weights_of_file: dict[str, Any] = {name: weights[name] + delta for name, delta in deltas.items()}
    if compressed:  # as adobe's compress.py writes it
        for name, delta in deltas.items():
            u, s, v = torch.linalg.svd(delta, full_matrices=False)
            weights_of_file[name] = {"u": (u @ torch.diag(s))[:, :20].clone(), "v": v[:20].clone()}
            deltas[name] = weights_of_file[name]["u"] @ weights_of_file[name]["v"]
    words = {"<new1>": torch.randn(768), "<new2>": torch.randn(768)}
    torch.save({"unet": weights_of_file, "modifier_token": words}, loras / "delta.bin")
    first, adapter, tuned, found, second = load(pack, model, loras / "delta.bin")
    expected = predicted(with_weights(family, {names[key]: delta for key, delta in deltas.items()}, 1.0), family)
    assert error(predicted(tuned, family), expected) < 1e-5 < error(predicted(model, family), expected)
    assert (first.name, second.name, first.class_word) == ("new1", "new2", "cat")
    assert torch.equal(first.vectors["clip_l"], words["<new1>"][None])
    assert f"embedding:new1, embedding:new2; {len(deltas)} matrices" in found
    assert len(adapter) == (3 if compressed else 1) * len(deltas)


def test_a_file_is_read_alike_while_a_model_with_its_weights_is_loaded(pack: Any, loras: Path):
    """As where a queue is run again with another class word; the change would be none."""
    family = FAMILIES["sd1"]
    model = comfy_model(family, depth=1)
    unet = diffusers_unet(family, model, depth=1)
    weights = unet.state_dict()
    weights_of_file = {name: weights[name] + delta for name, delta in changed_weights(unet).items()}
    torch.save({"unet": weights_of_file}, loras / "delta.bin")
    _, first, tuned, *_ = load(pack, model, loras / "delta.bin")
    predicted(tuned, family)
    _, second, again, *_ = load(pack, model, loras / "delta.bin")
    assert all(torch.equal(second[key], tensor) for key, tensor in first.items())
    assert torch.equal(predicted(again, family), predicted(tuned, family))


@pytest.fixture(scope="module")
def small() -> Any:
    return comfy_model(FAMILIES["sd1"], depth=1)


KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "is no Custom Diffusion of this model"),
        ([torch.zeros(2)], "holds a list, not the named weights"),
        ({"clip_l": torch.zeros(1, 768)}, r"is no Custom Diffusion of this model \(it holds clip_l\)"),
        ({"<new1>": torch.zeros(768)}, "is no Custom Diffusion of this model"),
        ({"unet": torch.zeros(2)}, 'is damaged: its "unet" is a Tensor, not named tensors'),
        ({KEY: torch.zeros(128, 768)}, r"is for another family of models: .* has the shape \(128, 768\), .* \(128, 48\)"),
        ({KEY: torch.zeros(48)}, r"is for another family of models: .* has the shape \(48,\)"),
        ({KEY: {"u": torch.zeros(128, 2)}}, "is damaged: its .*to_k.weight. is no finite tensor"),
        ({KEY: {"u": torch.zeros(128, 2), "v": torch.zeros(3, 48)}}, "is damaged: its .*to_k.weight. is no finite tensor"),
        ({KEY: {"u": torch.zeros(320, 2), "v": torch.zeros(2, 768)}}, "is for another family of models"),
        ({KEY: {"u": torch.zeros(10**6, 1), "v": torch.zeros(1, 10**6)}}, r"has the shape \(1000000, 1000000\)"),
        ({KEY: "a text"}, "is damaged: its .*to_k.weight. is no finite tensor"),
        ({KEY: torch.full((128, 48), float("nan"))}, "is damaged: its .*to_k.weight. is no finite tensor"),
        ({"unet": {KEY: torch.zeros(128, 48)}, "modifier_token": torch.zeros(768)}, 'is damaged: its "modifier_token" is a Tensor'),
        ({"unet": {KEY: torch.zeros(128, 48)}, "modifier_token": {"<new1>": "a text"}}, 'is damaged: its word "<new1>"'),
    ],
)  # fmt: skip
def test_a_foreign_or_damaged_file_gets_one_sentence(content: Any, sentence: str, pack: Any, small: Any, loras: Path):
    torch.save(content, loras / "delta.bin")
    with pytest.raises(ValueError, match=sentence) as raised:
        load(pack, small, loras / "delta.bin")
    assert str(raised.value).startswith('"delta.bin"') and "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_gets_one_sentence(pack: Any, small: Any, loras: Path):
    torch.save({KEY: torch.zeros(128, 48)}, loras / "whole.bin")
    whole = (loras / "whole.bin").read_bytes()
    save_file({"lora_unet_mid.lora_up.weight": torch.zeros(2, 2)}, loras / "lora.safetensors")
    torch.save({KEY: print}, loras / "code.bin")  # which unpickling would import
    for name, data in (("half.bin", whole[:200]), ("empty.bin", b""), ("half.safetensors", b"{}"), ("code.bin", None)):
        if data is not None:
            (loras / name).write_bytes(data)
        with pytest.raises(ValueError, match=f'^"{name}" cannot be read: ') as raised:
            load(pack, small, loras / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(
        ValueError, match=r'"lora.safetensors" is no Custom Diffusion of this model \(it holds lora_unet_mid'
    ):
        load(pack, small, loras / "lora.safetensors")
