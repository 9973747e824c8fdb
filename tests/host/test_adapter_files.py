"""What is saved of a change loads through stock Load LoRA and through diffusers' own loader, and does there what it did here."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tunes import Small, loras_in, small_fine_tune
from safetensors.torch import load_file
from test_training_families import FAMILIES, Family, comfy_model, diffusers_unet
from torch import Tensor

RANK = 3
CHANGE = 0.1  # in units of each weight's own root mean square


@pytest.fixture
def loras(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return loras_in(own_folders, monkeypatch)


def question(family: Family) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, timesteps, context and pooled output."""
    generator = torch.Generator().manual_seed(4)
    noisy, pooled = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 64, generator=generator)
    return noisy, torch.tensor([120, 840]), torch.randn(2, 77, family.width, generator=generator), pooled


@torch.inference_mode()
def predicted(model: Any, family: Family) -> Tensor:
    """By a MODEL, its patches applied as for a sampler."""
    import comfy.model_management
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.model import predictor

    comfy.model_management.load_models_gpu([model])
    noisy, steps, context, pooled = question(family)
    return predictor(model)(noisy, steps, Encoded(context, pooled)).clone()


@torch.no_grad()
def predicted_by_diffusers(unet: Any, family: Family) -> Tensor:
    noisy, steps, context, pooled = question(family)
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)
    added = {"text_embeds": pooled, "time_ids": sizes} if family.config == "SDXL" else None
    return unet(noisy, steps, context, added_cond_kwargs=added).sample


def with_weights(family: Family, deltas: dict[str, Tensor], strength: float) -> Any:
    """The same MODEL made anew, with the change in its very weights."""
    model = comfy_model(family, depth=1)
    with torch.inference_mode():
        for path, delta in deltas.items():
            model.model.diffusion_model.get_parameter(path).add_(strength * delta)
    return model


def deltas_of(small: Small) -> dict[str, Tensor]:
    with torch.no_grad():
        changes = small.way.adapter(small.leaves).changes
        return {path: change.delta.reshape(small.backbone.weight(path).shape) for path, change in changes.items()}


def saved(pack: Any, small: Small, rank: int = 0, dtype: str = "float32") -> str:
    """What the node says of the file "change.safetensors"."""
    from compositional_inversion.compinv_core.concept import Concept

    lora = small.way.adapter(small.leaves).to_lora(small.backbone.lora_names)
    vectors = {key: value.detach() for key, value in small.way.words(small.leaves)["probe"].items()}
    settings = {"name": "change", "rank": rank, "dtype": dtype, "if_it_exists": "replace it"}
    return pack.run("CompInvSaveAdapter", concept=Concept("probe", vectors, "cat"), adapter=lora, **settings)[2]


def loaded(model: Any, strength: float) -> Any:
    import nodes

    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "change.safetensors", strength)[0]


def error(one: Tensor, other: Tensor) -> float:
    """In units of the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize(("what", "rank"), [("keys and values", 0), ("attention", RANK), ("whole UNet", 0)])
def test_stock_load_lora_gives_what_was_learnt(
    what: str, rank: int, name: str, pack: Any, loras: Path, request: pytest.FixtureRequest
):
    family = FAMILIES[name]
    model = comfy_model(family, depth=1)
    plain = predicted(model, family)
    small = small_fine_tune(model, request.getfixturevalue(name), what, rank, CHANGE)
    saved(pack, small)
    for strength in (1.0, 0.5):
        expected = predicted(with_weights(family, deltas_of(small), strength), family)
        assert error(plain, expected) > 1e-3
        # Float32: a patch is added by other operations than ours.
        assert error(predicted(loaded(model, strength), family), expected) < 1e-5
    assert torch.equal(predicted(model, family), plain)


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize(("what", "rank", "saved_rank"), [("keys and values", 0, -1), ("attention", RANK, 0)])
def test_diffusers_gives_what_was_learnt(
    what: str, rank: int, saved_rank: int, name: str, pack: Any, loras: Path, request: pytest.FixtureRequest
):
    """By kohya's names; a whole matrix as a product of full rank, for diffusers does not know ".diff"."""
    family = FAMILIES[name]
    model = comfy_model(family, depth=1)
    small = small_fine_tune(model, request.getfixturevalue(name), what, rank, CHANGE)
    saved(pack, small, rank=min(128, family.width) if saved_rank else 0)
    pipe, unet = pipeline(name, diffusers_unet(family, model, depth=1))
    pipe.load_lora_weights(loras, weight_name="change.safetensors", adapter_name="change")
    for strength in (1.0, 0.5):
        pipe.set_adapters("change", strength)
        expected = predicted(with_weights(family, deltas_of(small), strength), family)
        assert error(predicted_by_diffusers(unet, family), expected) < 1e-5
    assert sum("lora_A" in key for key, _ in unet.named_parameters()) == len(small.way.weights)


def pipeline(name: str, unet: Any) -> tuple[Any, Any]:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    others: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler"))
    if name == "sdxl":
        more = {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        return StableDiffusionXLPipeline(unet=unet, **others, **more), unet
    more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(unet=unet, **others, **more), unet


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_rank_loses_what_the_node_says(name: str, pack: Any, loras: Path, request: pytest.FixtureRequest):
    """And Load LoRA gives what is left of the change."""
    family = FAMILIES[name]
    model = comfy_model(family, depth=1)
    small = small_fine_tune(model, request.getfixturevalue(name), "keys and values", 0, CHANGE)
    deltas = deltas_of(small)
    summary = saved(pack, small, rank=8)
    left = {path: best_of_rank(delta, 8) for path, delta in deltas.items()}
    lost = (
        sum((left[p] - deltas[p]).square().sum() for p in deltas) / sum(d.square().sum() for d in deltas.values())
    ).sqrt()
    (said,) = re.findall(r"reducing it to rank 8 loses ([\d.]+)% of the change", summary)
    assert float(said) == pytest.approx(100 * lost.item(), abs=0.06)  # as it is rounded
    expected = predicted(with_weights(family, left, 1.0), family)
    assert error(predicted(loaded(model, 1.0), family), expected) < 1e-5
    whole = predicted(with_weights(family, deltas, 1.0), family)
    # Of a random change, whose singular values are alike, rank 8 leaves less than a fifth; a learnt one has few large ones.
    assert 0.8 < lost < 0.9 and error(expected, whole) > 1e-3


def best_of_rank(delta: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])  # 11 bits and 8 of precision
def test_a_file_in_half_precision_is_the_same_but_for_its_bits(
    dtype: str, tolerance: float, pack: Any, loras: Path, sd1: Any
):
    family = FAMILIES["sd1"]
    model = comfy_model(family, depth=1)
    small = small_fine_tune(model, sd1, "attention", RANK, CHANGE)
    saved(pack, small, dtype=dtype)
    plain, expected = predicted(model, family), predicted(with_weights(family, deltas_of(small), 1.0), family)
    off = (predicted(loaded(model, 1.0), family) - expected).norm() / (expected - plain).norm()
    assert 1e-5 < off < 2 * tolerance  # two factors


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_name_is_kohyas(name: str, pack: Any, request: pytest.FixtureRequest):
    """What kohya's scripts call a module: diffusers' name for SD 1.x and 2.x, the checkpoint's own for SDXL."""
    model = comfy_model(FAMILIES[name], depth=1)
    small = small_fine_tune(model, request.getfixturevalue(name), "attention", RANK)
    names = {small.backbone.lora_names[path] for path in small.way.weights}
    pattern = r"lora_unet_(down_blocks_1|up_blocks_0|mid_block)_attentions_\d_"
    if name == "sdxl":
        pattern = r"lora_unet_(input_blocks_3_1|output_blocks_[01]_1|middle_block_1)_"
    ending = r"transformer_blocks_0_attn[12]_to_(q|k|v|out_0)"
    assert len(names) == len(small.way.weights) and all(re.fullmatch(pattern + ending, one) for one in names)


def test_files_that_exist_are_not_written_over(pack: Any, loras: Path, own_folders: Path, sd1: Any):
    small = small_fine_tune(comfy_model(FAMILIES["sd1"], depth=1), sd1, "keys and values", 2)
    from compositional_inversion.compinv_core.concept import Concept

    lora = small.way.adapter(small.leaves).to_lora(small.backbone.lora_names)
    concept = Concept("mine", {"clip_l": torch.ones(1, 48)}, "cat")

    def save(how: str, **changes: Any) -> Any:
        settings = {"name": "", "rank": 0, "dtype": "float32", "if_it_exists": how, **changes}
        return pack.run("CompInvSaveAdapter", concept=concept, adapter=lora, **settings)

    refuse, replace, number = pack.nodes["CompInvSaveAdapter"].define_schema().inputs[5].options
    assert save(refuse)[1] == "embedding:mine"
    before = (loras / "mine.safetensors").read_bytes()
    (own_folders / "embeddings" / "mine.safetensors").unlink()  # the adapter alone is there
    with pytest.raises(FileExistsError, match=r'loras.mine\.safetensors" exists already'):
        save(refuse)
    assert save(number)[1] == "embedding:mine-2" and (loras / "mine-2.safetensors").exists()
    assert (loras / "mine.safetensors").read_bytes() == before
    save(replace, rank=1)
    assert (loras / "mine.safetensors").read_bytes() != before
    with pytest.raises(
        ValueError, match="The rank is 49, but no matrix of the change has a rank above 48; 1 to 48 is allowed"
    ):
        whole = small_fine_tune(comfy_model(FAMILIES["sd1"], depth=1), sd1, "keys and values", 0)
        lora = whole.way.adapter(whole.leaves).to_lora(whole.backbone.lora_names)
        save(number, rank=49)
    assert len(list(loras.iterdir())) == 2  # what is refused writes nothing


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_both_files_as_they_were(
    there: bool, pack: Any, loras: Path, own_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whichever of the two cannot be written, or cannot take its place."""
    files = [own_folders / kind / "mine.safetensors" for kind in ("embeddings", "loras")]

    def save(value: float) -> None:
        concept = Concept("mine", {"clip_l": torch.full((1, 48), value)}, "cat")
        adapter = {"lora_unet_mid.diff": torch.full((2, 3), value)}
        settings = {"name": "", "rank": 0, "dtype": "float32", "if_it_exists": "replace it"}
        pack.run("CompInvSaveAdapter", concept=concept, adapter=adapter, **settings)

    from compositional_inversion.compinv_core import files as writing
    from compositional_inversion.compinv_core.concept import Concept

    if there:
        save(1.0)
    before = [file.read_bytes() if there else None for file in files]
    for owner, name in ((writing, "save_file"), (Path, "replace")):
        for fails in (1, 2):
            original, calls = getattr(owner, name), list[None]()

            def full(*inputs: Any, original: Any = original, calls: list[None] = calls, fails: int = fails) -> Any:
                calls.append(None)
                if len(calls) == fails:
                    raise OSError("No space left on device")
                return original(*inputs)

            with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
                patched.setattr(owner, name, full)
                save(2.0)
            assert len(calls) >= fails
            assert [file.read_bytes() if file.exists() else None for file in files] == before
            assert sum(1 for file in files for _ in file.parent.iterdir()) == 2 * there
    save(3.0)
    assert load_file(files[1])["lora_unet_mid.diff"].unique().tolist() == [3]
    assert sum(1 for file in files for _ in file.parent.iterdir()) == 2


def test_both_concepts_of_an_adapter_are_saved_with_it(pack: Any, loras: Path, own_folders: Path):
    from compositional_inversion.compinv_core.concept import Concept, read_concept

    embeddings = own_folders / "embeddings"
    first, second = (
        Concept(name, {"clip_l": torch.full((1, 48), size)}, "cat") for name, size in (("one", 1.0), ("two", 2.0))
    )

    def save(how: str, name: str = "") -> tuple[Any, ...]:
        settings = {"name": name, "rank": 0, "dtype": "float32", "if_it_exists": how}
        adapter = {"lora_unet_mid.diff": torch.ones(2, 3)}
        return pack.run("CompInvSaveAdapter", concept=first, adapter=adapter, second=second, **settings)

    def files() -> list[set[str]]:
        return [{file.stem for file in folder.iterdir()} for folder in (embeddings, loras)]

    summary = save("refuse")[2]
    assert files() == [{"one", "two"}, {"one"}]
    assert all(
        str(folder / name) in summary for folder, name in ((embeddings, "one"), (embeddings, "two"), (loras, "one"))
    )
    assert read_concept(embeddings / "two.safetensors").vectors["clip_l"].unique().tolist() == [2]
    with pytest.raises(FileExistsError, match=r'embeddings.two\.safetensors" exists already'):
        save("refuse", "other")
    assert save("add a number", "other")[1] == "embedding:other-2"  # one number for all
    assert files() == [{"one", "two", "other-2", "two-2"}, {"one", "other-2"}]
    with pytest.raises(ValueError, match='Both concepts would be saved as "Two"'):
        save("replace it", "Two")


K, CONV = "middle_block.1.transformer_blocks.0.attn2.to_k", "input_blocks.0.0"
UP, DOWN = torch.arange(256.0).view(128, 2) / 99, torch.arange(96.0).view(2, 48) / 99
FULL, BIAS = torch.ones(64, 4, 3, 3), torch.ones(64)


def lora_named(name: str, up: str, down: str, alpha: float | None = 1.0) -> dict[str, Tensor]:
    """A change of half of UP @ DOWN of keys, where `alpha` is 1."""
    return {name + up: UP, name + down: DOWN, **({} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)})}


NAMED = {
    "kohya's": lora_named("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", ".lora_up.weight", ".lora_down.weight"),
    "kohya's of the checkpoint": lora_named(f"lora_unet_{K.replace('.', '_')}", ".lora_up.weight", ".lora_down.weight"),
    "ComfyUI's": lora_named(f"diffusion_model.{K}", ".lora_up.weight", ".lora_down.weight"),
    "diffusers' processors": lora_named("mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k", "_lora.up.weight", "_lora.down.weight"),
    "diffusers' of PEFT": lora_named("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k", ".lora_B.weight", ".lora_A.weight"),
}  # fmt: skip


@pytest.mark.parametrize("naming", list(NAMED))
def test_every_naming_that_comfyui_loads_is_read_and_saved(naming: str, pack: Any, loras: Path):
    import comfy.sd
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.host.weights import adapter_of

    model = comfy_model(FAMILIES["sd1"], depth=1)
    read = adapter_of(model, NAMED[naming])
    assert list(read.changes) == [f"{K}.weight"] and read.family == "SD 1.x"
    assert torch.allclose(read.changes[f"{K}.weight"].delta, UP @ DOWN / 2)
    settings = {"name": "change", "dtype": "float32", "if_it_exists": "replace it"}
    for rank in (0, 1):
        concept = Concept("probe", {"clip_l": torch.ones(1, 48)})
        pack.run("CompInvSaveAdapter", concept=concept, adapter=NAMED[naming], rank=rank, **settings)
        again = adapter_of(model, load_file(loras / "change.safetensors"))
        assert again.changes[f"{K}.weight"].rank == (rank or 2)
    plain, _ = comfy.sd.load_lora_for_models(model, None, NAMED[naming], 1.0, 0.0)
    (patch,) = plain.patches  # as the host itself reads it
    assert patch == f"diffusion_model.{K}.weight"


def test_alpha_and_full_changes_are_read(pack: Any):
    from compositional_inversion.compinv_core.host.weights import adapter_of, adapter_of_any

    model, name = comfy_model(FAMILIES["sd1"], depth=1), f"diffusion_model.{K}"
    whole = adapter_of(model, lora_named(name, ".lora_up.weight", ".lora_down.weight", alpha=None))
    assert torch.equal(whole.changes[f"{K}.weight"].delta, UP @ DOWN)
    lora = {f"diffusion_model.{CONV}.diff": FULL, f"diffusion_model.{CONV}.diff_b": BIAS}
    read = adapter_of(model, lora).changes
    assert torch.equal(read[f"{CONV}.weight"].delta, FULL) and torch.equal(read[f"{CONV}.bias"].delta, BIAS)
    adapter, names = adapter_of_any(lora)
    again = adapter.to_lora(names)
    assert set(again) == set(lora) and all(torch.equal(again[key], tensor) for key, tensor in lora.items())


def test_what_is_no_lora_of_this_model_is_refused(pack: Any):
    from compositional_inversion.compinv_core.host.weights import adapter_of, adapter_of_any

    model, name = comfy_model(FAMILIES["sd1"], depth=1), f"diffusion_model.{K}"
    foreign = lora_named("lora_unet_elsewhere", ".lora_up.weight", ".lora_down.weight")
    lora = lora_named(name, ".lora_up.weight", ".lora_down.weight")
    for holds, given in (("lora_unet_elsewhere", foreign), ("nothing", {})):
        with pytest.raises(ValueError, match=rf"changes no weight of this model \(it holds {holds}"):
            adapter_of(model, given)
    assert list(adapter_of(model, {**lora, **foreign}).changes) == [f"{K}.weight"]  # as a text encoder's
    for given in ({**lora, f"{name}.dora_scale": UP}, {f"{name}.set_weight": UP}):
        with pytest.raises(ValueError, match=rf'changes "{K}" in a way that cannot be used here'):
            adapter_of(model, given)
    with pytest.raises(ValueError, match=r'holds "a\.b\.c", which is no part of a LoRA that ComfyUI loads'):
        adapter_of_any({**lora, "a.b.c": UP})
