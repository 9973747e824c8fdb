"""Spatial inversion on the real host: any sampler, others' patches, nothing left changed."""

from typing import Any

import pytest
import torch
from pretended import dynamic

TEXT = "a photo of a cat and a car"
GUIDANCE = {"guidance": 30.0, "corrections": 2, "guidance_until": 0.5, "threshold": 0.0}
STEERING = {"steering": 6.0, "steering_until": 1.0}
SETTINGS = {**GUIDANCE, "steering": 0.0, "steering_until": 1.0, "balance": 0.0}


def prompt(pack: Any, microworld: Any, text: str = TEXT, subjects: str = "cat, car") -> Any:
    return pack.run("CompInvPrompt", clip=microworld[1], text=text, subjects=subjects)[0]


def negative(microworld: Any, text: str = "") -> Any:
    import nodes

    return nodes.CLIPTextEncode().encode(microworld[1], text)[0]


def layout(pack: Any, microworld: Any, method: str = "default boxes", boxes: str = "") -> Any:
    return pack.run(
        "CompInvLayoutRecover",
        model=microworld[0],
        positive=prompt(pack, microworld),
        negative=negative(microworld),
        latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        method=method,
        boxes=boxes,
        steps=3,
        cfg=4.0,
        seed=1,
    )


def sample(pack: Any, microworld: Any, **changes: Any) -> tuple[Any, ...]:
    inputs = {
        "model": microworld[0],
        "positive": prompt(pack, microworld),
        "negative": negative(microworld),
        "latent_image": {"samples": torch.zeros(2, 4, 8, 8)},
        "seed": 5,
        "steps": 4,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        **SETTINGS,
        **changes,
    }
    with torch.inference_mode():
        return pack.run("CompInvRegularizedSampler", **inputs)


def ksampler(pack: Any, microworld: Any, model: Any = None, **changes: Any) -> torch.Tensor:
    import nodes

    inputs = {
        "seed": 5, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": prompt(pack, microworld), "negative": negative(microworld),
        "latent_image": {"samples": torch.zeros(2, 4, 8, 8)}, **changes,
    }  # fmt: skip
    with torch.inference_mode():
        return nodes.KSampler().sample(model or microworld[0], **inputs)[0]["samples"].clone()


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def test_without_a_layout_it_is_ksampler(pack: Any, microworld: Any):
    assert torch.equal(sample(pack, microworld)[0]["samples"], ksampler(pack, microworld))


@pytest.mark.parametrize(
    "off",
    [
        {"guidance": 0.0},
        {"corrections": 0},
        {"guidance_until": 0.0},
        {"guidance": 0.0, "steering": 6.0, "steering_until": 0.0},
    ],
)
def test_switched_off_it_is_ksampler(pack: Any, microworld: Any, off: dict[str, Any]):
    regions = layout(pack, microworld)[0]
    assert torch.equal(sample(pack, microworld, layout=regions, **off)[0]["samples"], ksampler(pack, microworld))


def test_corrections_change_the_picture_and_nothing_else(pack: Any, microworld: Any):
    before = ksampler(pack, microworld)
    latent, maps, report, _ = sample(pack, microworld, layout=layout(pack, microworld)[0])
    assert not torch.equal(latent["samples"], before)
    assert latent["samples"].isfinite().all()
    assert len(maps) == 2 and "energy" in report  # two of four steps
    assert torch.equal(ksampler(pack, microworld), before)


def test_a_correction_lowers_the_energy(pack: Any, microworld: Any):
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    reports: list[Any] = []
    regions, guidance = layout(pack, microworld)[0], Guidance(5.0, 4, 0.25, 0.0)
    guided = with_layout(microworld[0], regions, Steering(0), guidance, balance=Balance(), report=reports.append)
    ksampler(pack, microworld, guided)
    assert len(reports) == 1  # the first of four steps
    before, after = reports[0].energies
    assert (after < before).all()


def test_once_the_energy_is_low_enough_the_model_is_called_as_without_a_layout(pack: Any, microworld: Any):
    steps: list[float] = []
    unet = microworld[0].model.diffusion_model
    counting = unet.register_forward_pre_hook(lambda _, inputs: steps.append(inputs[1][0].item()))
    everywhere = {"layout": layout(pack, microworld)[0], "guidance_until": 1.0, "threshold": 1.0}
    try:
        sample(pack, microworld)
        plain = steps.copy()
        steps.clear()
        sample(pack, microworld, **everywhere)
    finally:
        counting.remove()
    assert steps.count(plain[0]) == 3  # memory is weighed, the energy is met, the step is made
    assert [step for step in steps if step < plain[0]] == plain[1:]


def test_each_picture_of_a_batch_is_left_alone_by_its_own_energy(pack: Any, microworld: Any):
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    reports: list[Any] = []

    def sampled(indices: list[int], threshold: float) -> torch.Tensor:
        latent = {"samples": torch.zeros(len(indices), 4, 8, 8), "batch_index": indices}
        guidance = Guidance(5.0, 2, 1.0, threshold)
        held = with_layout(
            microworld[0], layout(pack, microworld)[0], Steering(0), guidance, balance=Balance(), report=reports.append
        )
        return ksampler(pack, microworld, held, latent_image=latent)

    sampled([0, 1], 1.0)
    between = reports[0].energies[0].mean().item()
    reports.clear()
    together = sampled([0, 1], between)
    assert len(reports) > 1  # one went on without the other
    alone = torch.cat([sampled([0], between), sampled([1], between)])
    assert torch.allclose(together, alone, atol=1e-4)  # float32 in batches of another size


def test_a_gradient_is_taken_through_weights_that_stay(pack: Any, microworld: Any):
    model, *rest = microworld
    coming_and_going = dynamic(model)
    steered = {"steering": 6.0, "guidance": 0.0, "layout": layout(pack, microworld)[0]}
    for asked, changes in ((0, steered), (1, {**steered, "guidance": 30.0})):
        images = [sample(pack, (m, *rest), **changes)[0]["samples"] for m in (model, coming_and_going)]
        assert torch.equal(*images) and type(coming_and_going).asked == asked


def test_the_node_and_the_model_patch_are_the_same(pack: Any, microworld: Any):
    regions = layout(pack, microworld)[0]
    (model,) = pack.run("CompInvRegularizeModel", model=microworld[0], layout=regions, **SETTINGS)
    assert torch.equal(ksampler(pack, microworld, model), sample(pack, microworld, layout=regions)[0]["samples"])


@pytest.mark.parametrize(
    "sampler",
    ["euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc", "ddim", "lcm", "dpm_adaptive", "res_multistep"],
)
def test_every_kind_of_sampler_runs(pack: Any, microworld: Any, sampler: str):
    latent, _, report, _ = sample(pack, microworld, layout=layout(pack, microworld)[0], sampler_name=sampler)
    assert latent["samples"].isfinite().all() and "energy" in report


@pytest.mark.parametrize(("cfg", "text"), [(1.0, ""), (4.0, "bad " * 100)])
def test_cfg_of_one_and_longer_negative_prompts(pack: Any, microworld: Any, cfg: float, text: str):
    """At CFG 1 there is no unconditional branch; prompts of unequal length are repeated to one length."""
    inputs = {"cfg": cfg, "negative": negative(microworld, text)}
    assert sample(pack, microworld, layout=layout(pack, microworld)[0], **inputs)[0]["samples"].isfinite().all()
    recovered = pack.run(
        "CompInvLayoutRecover", model=microworld[0], positive=prompt(pack, microworld), latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        negative=inputs["negative"], method="from attention", boxes="", steps=2, cfg=cfg, seed=1,
    )  # fmt: skip
    assert len(recovered[0].regions) == 2


def test_copies_of_a_repeated_prompt_are_folded(pack: Any):
    from compositional_inversion.compinv_core.families.unet import Block
    from compositional_inversion.compinv_core.host.attention import Capture

    q, k = torch.randn(1, 16, 8), torch.randn(1, 6, 8)
    options = {"n_heads": 2, "activations_shape": [1, 8, 4, 4], "uuids": ["mine"]}
    block = Block(("middle", 0), 0)
    once, twice = Capture([block], "mine", [1, 4], 6), Capture([block], "mine", [1, 4], 6)
    once.see(block, q, k, options)
    twice.see(block, q, k.repeat(1, 2, 1), options)
    assert torch.allclose(once.maps[block], twice.maps[block], atol=1e-6)


def test_only_the_prompt_with_the_subjects_is_read_wherever_it_stands(pack: Any):
    from compositional_inversion.compinv_core.families.unet import Block
    from compositional_inversion.compinv_core.host.attention import Capture

    q, k = torch.randn(3, 16, 8), torch.randn(3, 6, 8)
    block = Block(("middle", 0), 0)
    shape = {"n_heads": 2, "activations_shape": [3, 8, 4, 4]}
    first, last, absent = (Capture([block], "mine", [1], 6) for _ in range(3))
    first.see(block, q, k, {**shape, "uuids": ["mine", "another", "negative"]})
    last.see(block, q.flip(0), k.flip(0), {**shape, "uuids": ["negative", "another", "mine"]})
    absent.see(block, q, k, {**shape, "uuids": ["a", "b", "c"]})
    assert torch.equal(first.maps[block], last.maps[block]) and not absent.maps


def test_anothers_attention_patch_is_called(pack: Any, microworld: Any):
    """As IPAdapter does, a pack replaces the attention of a block; ours must not push it out."""
    model = microworld[0].clone()
    called: list[int] = []

    def other(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        called.append(len(q))
        return torch.zeros_like(q)

    model.set_model_attn2_replace(other, "middle", 0)
    ksampler(pack, microworld, model)
    plain = len(called)
    sample(pack, microworld, model=model, layout=layout(pack, microworld)[0])
    assert len(called) > 2 * plain  # in the guided passes too


def test_the_truncated_pass_gives_the_whole_passs_picture(pack: Any, microworld: Any, monkeypatch: Any):
    import compositional_inversion.compinv_core.host.sampler as host

    regions = layout(pack, microworld)[0]
    cut = sample(pack, microworld, layout=regions)[0]["samples"].clone()
    watch = host.watch
    monkeypatch.setattr(host, "watch", lambda *args, stop: watch(*args, stop=False))
    assert torch.equal(sample(pack, microworld, layout=regions)[0]["samples"], cut)


def test_an_interrupt_in_the_middle_changes_nothing(pack: Any, microworld: Any):
    import comfy.model_management as management
    from comfy.ldm.modules.attention import attention_pytorch

    before, weights = ksampler(pack, microworld), list(microworld[0].model.diffusion_model.parameters())
    regions = layout(pack, microworld)[0]

    def interrupted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        if torch.is_grad_enabled():  # in a guided pass
            raise management.InterruptProcessingException
        return attention_pytorch(q, k, v, extra["n_heads"])

    model = microworld[0].clone()
    model.set_model_attn2_replace(interrupted, "middle", 0)
    with pytest.raises(management.InterruptProcessingException):
        sample(pack, microworld, model=model, layout=regions)
    assert torch.equal(ksampler(pack, microworld), before)
    assert all(a is b for a, b in zip(microworld[0].model.diffusion_model.parameters(), weights, strict=True))


def test_a_layout_names_every_subject_once(pack: Any, microworld: Any):
    regions, preview, masks, boxes = layout(pack, microworld, "from attention")
    assert [region.phrase for region in regions.regions] == ["cat", "car"]
    assert masks.shape == (2, 64, 64) and preview.shape[-1] == 3 and "cat" in boxes


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [('{"dog": [0, 0, 1, 1]}', 'names "dog"'), ("cat", "cannot be read"), ('{"cat": [0, 0, 2, 1]}', "box needs")],
)
def test_boxes_that_do_not_fit_are_refused(pack: Any, microworld: Any, boxes: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        layout(pack, microworld, "my boxes", boxes)


def test_a_layout_of_other_subjects_is_refused(pack: Any, microworld: Any):
    with pytest.raises(ValueError, match='names "car"'):
        sample(pack, microworld, layout=layout(pack, microworld)[0], positive=prompt(pack, microworld, TEXT, "cat"))


def test_a_stock_prompt_is_refused_with_a_layout(pack: Any, microworld: Any):
    with pytest.raises(ValueError, match="Composition Prompt"):
        sample(pack, microworld, layout=layout(pack, microworld)[0], positive=negative(microworld, TEXT))


def test_a_model_and_prompt_that_do_not_belong_together_are_refused(pack: Any, microworld: Any, sd1: Any):
    foreign = pack.run("CompInvPrompt", clip=sd1, text=TEXT, subjects="cat, car")[0]
    with pytest.raises(ValueError, match="do not match"):
        sample(pack, microworld, positive=foreign)


def test_an_architecture_without_cross_attention_is_refused(microworld: Any):
    from compositional_inversion.compinv_core.host.attention import guided_blocks
    from compositional_inversion.compinv_core.host.latents import noise_schedule

    model = microworld[0].clone()
    model.model = type("Other", (), {"diffusion_model": torch.nn.Linear(2, 2), "adm_channels": 0})()
    model.object_patches["model_sampling"] = object()
    for refused in (lambda: guided_blocks(model, 8, 8), lambda: noise_schedule(model)):
        with pytest.raises(ValueError, match=r"SD 1\.x"):
            refused()
