"""Each family's loss and gradient, small and with random weights, against diffusers and transformers."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

PROMPTS = ["a photo of a embedding:probe", "a rendering of the embedding:probe, on grass"]


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint: ComfyUI's model of it, and what diffusers calls the same."""

    config: str  # class in comfy.supported_models
    prediction: str  # of comfy.model_base.ModelType
    width: int  # of all text encoders of the fixtures in conftest.py together
    unet: dict[str, Any]
    theirs: dict[str, Any]


LINEAR = {"use_linear_in_transformer": True}  # and ComfyUI gives these families 64 channels a head, SD 1.x 8 heads
THEIRS_LINEAR = {"use_linear_projection": True, "attention_head_dim": (1, 2)}  # diffusers' name for the number of heads
FAMILIES = {
    "sd1": Family("SD15", "EPS", 48, {}, {"attention_head_dim": 8}),
    "sd2": Family("SD20", "V_PREDICTION", 56, LINEAR, THEIRS_LINEAR),
    "sdxl": Family(
        "SDXL",
        "EPS",
        48 + 64,
        {**LINEAR, "num_classes": "sequential", "adm_in_channels": 64 + 6 * 256},
        {
            **THEIRS_LINEAR,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 64 + 6 * 256,
        },
    ),
}


def comfy_model(family: Family, depth: int = 2) -> Any:
    """A MODEL whose first level has no attention and whose second is `depth` transformers deep."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    unet = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 64,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [0, depth],
        "transformer_depth_output": [0, 0, depth, depth],
        "transformer_depth_middle": depth,
        "use_spatial_transformer": True,
        "legacy": False,
        "context_dim": family.width,
        "use_linear_in_transformer": False,
        **family.unet,
    }
    config = getattr(comfy.supported_models, family.config)(unet)
    config.set_inference_dtype(torch.float32, None)
    kind = comfy.model_base.SDXL if family.config == "SDXL" else comfy.model_base.BaseModel
    with torch.inference_mode():  # as ComfyUI loads every checkpoint
        model = kind(config, getattr(comfy.model_base.ModelType, family.prediction), device="cpu")
        generator = torch.Generator().manual_seed(0)
        for weight in model.diffusion_model.parameters():
            scale = 0.1 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def diffusers_unet(family: Family, model: Any, depth: int = 2) -> Any:
    import comfy.utils
    from diffusers import UNet2DConditionModel

    shape = {
        "sample_size": 8,
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": depth,
        "cross_attention_dim": family.width,
    }
    theirs = UNet2DConditionModel(**{**shape, **family.theirs})
    ours = {key: value.detach().clone() for key, value in model.model.diffusion_model.state_dict().items()}
    mapping = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    wanted = theirs.state_dict()
    theirs.load_state_dict({key: ours[mapping[key]] for key in wanted}, strict=True)
    return theirs


def transformers_text(encoder: Any, vectors: Tensor) -> Any:
    """The same text encoder in transformers, with the vectors as the last rows of its table."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    state = {key: value.detach().clone().float() for key, value in encoder.transformer.state_dict().items()}
    table = state["text_model.embeddings.token_embedding.weight"]
    state["text_model.embeddings.token_embedding.weight"] = torch.cat([table, vectors])
    width = table.shape[1]
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(table) + len(vectors),
            hidden_size=width,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=width,
            hidden_act=encoder.transformer.text_model.encoder.layers[0].mlp.activation.__name__.replace(
                "<lambda>", "quick_gelu"
            ),
            eos_token_id=49407,
            bos_token_id=49406,
        )
    )
    state.setdefault("text_projection.weight", torch.eye(width))
    missing, _ = text.load_state_dict(state, strict=False)
    assert not [name for name in missing if "position_ids" not in name]
    return text


def encoded_by_transformers(clip: Any, vectors: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Context, pooled output, and the tables that the gradient goes to."""
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.host import text_encoder

    marked = text_encoder.with_concept(clip, Concept("probe", vectors))
    contexts, tables = [], []
    pooled = torch.empty(0)
    for key, encoder in text_encoder.text_encoders(clip).items():
        text = transformers_text(encoder, vectors[key])
        words = len(text.get_input_embeddings().weight) - len(vectors[key])
        text.get_input_embeddings().weight.requires_grad_()
        rows: list[list[int]] = []
        for prompt in PROMPTS:
            extra = iter(range(words, words + len(vectors[key])))
            (chunk,) = marked.tokenize(prompt)[key.removeprefix("clip_")]
            rows.append([next(extra) if isinstance(token, Tensor) else token for token, _ in chunk])
        output = text(torch.tensor(rows), output_hidden_states=True)
        hidden = output.hidden_states[-1 if encoder.layer == "last" else encoder.layer_idx]
        if encoder.layer == "last" or encoder.layer_norm_hidden_state:
            hidden = text.text_model.final_layer_norm(hidden)
        contexts.append(hidden)
        pooled = output.text_embeds
        tables.append(text.get_input_embeddings().weight)
    return torch.cat(contexts, dim=-1), pooled, tables


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_loss_and_gradient_are_those_of_diffusers(name: str, masked: bool, request: pytest.FixtureRequest):
    from compositional_inversion.compinv_core.host import text_encoder, text_gradient
    from compositional_inversion.compinv_core.host.latents import noise_schedule
    from compositional_inversion.compinv_core.host.model import frozen_weights, predictor
    from compositional_inversion.compinv_core.training.objective import diffusion_loss
    from diffusers import DDPMScheduler

    family, clip = FAMILIES[name], request.getfixturevalue(name)
    model = comfy_model(family)
    encoders = text_encoder.text_encoders(clip)
    generator = torch.Generator().manual_seed(1)
    widths = {key: e.transformer.get_input_embeddings().weight.shape[1] for key, e in encoders.items()}
    vectors = {key: torch.randn(2, width, generator=generator) * 0.1 for key, width in widths.items()}
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    steps = torch.tensor([120, 840])
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.4).float() if masked else None

    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        prepared = text_gradient.prepare(clip, [(prompt, "probe") for prompt in PROMPTS], {"probe": 2})
        trained = {key: value.clone().requires_grad_() for key, value in vectors.items()}
        weights = frozen_weights(model.model.diffusion_model, *encoders.values())
        with weights, text_gradient.differentiable(clip):
            encoded = text_gradient.encode_prepared(clip, prepared, [0, 1], {"probe": trained})
            loss = diffusion_loss(predictor(model), noise_schedule(model), latents, noise, steps, encoded, mask).mean()
            gradients = torch.autograd.grad(loss, list(trained.values()))

    context, pooled, tables = encoded_by_transformers(clip, vectors)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)  # original, corner of the crop, target
    unet = diffusers_unet(family, model)
    added = {"text_embeds": pooled, "time_ids": sizes} if name == "sdxl" else None
    noisy = scheduler.add_noise(latents, noise, steps)
    output = unet(noisy, steps, context, added_cond_kwargs=added).sample
    target = noise if family.prediction == "EPS" else scheduler.get_velocity(latents, noise, steps)
    error = (output - target).square()
    shares = torch.ones_like(error) if mask is None else mask.expand_as(error)
    expected = ((error * shares).sum(dim=(1, 2, 3)) / shares.sum(dim=(1, 2, 3))).mean()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for gradient, table in zip(gradients, tables, strict=True):
        # Float32 through some forty layers in another order of summation: 1e-4 of the gradient's own size.
        theirs = table.grad[-2:]
        assert theirs.norm() > 0 and (gradient - theirs).norm() < 1e-4 * theirs.norm()


def test_what_reads_more_than_text_and_size_is_refused():
    from compositional_inversion.compinv_core.host.latents import noise_schedule

    model = comfy_model(FAMILIES["sd1"])
    model.model.adm_channels = 1000
    with pytest.raises(ValueError, match="conditioned on more than text and size"):
        noise_schedule(model)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_node_trains_every_family(
    name: str, pack: Any, microworld: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
):
    from compositional_inversion.compinv_core.host import text_encoder

    clip = request.getfixturevalue(name)
    inputs = {
        "model": comfy_model(FAMILIES[name]),
        "clip": clip,
        "vae": microworld[2],
        "placeholder": "my-cat",
        "class_word": "cat",
        "resolution": 64,
        "steps": 3,
        "batch": 2,
        "vectors": 2,
        "learning_rate": 0.1,
        "anchor_weight": 0.1,
        "kind": "object",
        "mirror": True,
        "ignore_background": False,
        "seed": 0,
    }
    with torch.inference_mode(), caplog.at_level("INFO"):
        anchors, *_ = pack.run(
            "CompInvAnchorSelect", clip=clip, class_word="cat", how="nearest words", words="", count=3
        )
        lists = {key: [value] for key, value in inputs.items()}
        concept, _, preview, *_ = pack.run(
            "CompInvTrain", images=[torch.rand(3, 64, 64, 3)], anchors=[anchors], **lists
        )
    assert preview.shape == (2, 64, 64, 3)
    blurred = "SDXL is made for 1024 pixels; at a resolution of 64 the embedding learns blurred images."
    assert (blurred in caplog.messages) == (name == "sdxl")
    for key in text_encoder.text_encoders(clip):
        start = text_encoder.vocabulary(clip, key).vector("cat")
        moved = (concept.vectors[key] - start).norm(dim=1)
        assert concept.vectors[key].shape == (2, len(start)) and (moved > 0).all()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_gradient_of_checkpointed_blocks_is_the_same_bit_for_bit(name: str):
    """Also where a patch does another thing in each block, which ComfyUI's own checkpointing gets wrong."""
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.model import checkpointed, frozen_weights, predictor

    family = FAMILIES[name]
    model = comfy_model(family)
    seen: list[Any] = []

    def patch(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        seen.append((*extra["block"], extra["block_index"]))
        return q * (1 + extra["block"][1] + extra["block_index"]) + v.mean(1, keepdim=True) * k.std()

    for part in (("input", 3), ("middle", 0), ("output", 0), ("output", 1)):
        model.set_model_attn2_replace(patch, *part)
    generator = torch.Generator().manual_seed(2)
    noisy, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, family.width, generator=generator)
    pooled = torch.randn(2, 64, generator=generator)
    unet = model.model.diffusion_model

    def gradient() -> list[Tensor]:
        text, whole = context.clone().requires_grad_(), pooled.clone().requires_grad_()
        output = predictor(model)(noisy, torch.tensor([9, 700]), Encoded(text, whole))
        return [
            g for g in torch.autograd.grad(output.square().mean(), [text, whole], allow_unused=True) if g is not None
        ]

    with torch.inference_mode(False), torch.enable_grad(), frozen_weights(unet):
        plain = gradient()
        once = len(seen)
        with checkpointed(unet):
            again = gradient()
    assert len(seen) == 3 * once and len(set(seen)) == 4 * 2  # four blocks, two transformers deep; forward and backward
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert not any("forward" in module.__dict__ for module in unet.modules())
