"""A UNet's own weights, while another clone's patches are in force."""

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def patched(microworld: tuple[Any, Any, Any]) -> Any:
    """A clone with another adapter of its whole UNet, loaded as after a run that sampled with it; the clones share their weights."""
    import comfy.model_management
    import comfy.sd
    from compositional_inversion.compinv_core.host.weights import lora_names

    model, unet = microworld[0], microworld[0].model.diffusion_model
    lora = {
        f"{name}.diff": torch.full(unet.get_parameter(path).shape, 0.125)
        for path, name in lora_names(model).items()
        if path.endswith((".attn2.to_k.weight", ".attn2.to_v.weight", "input_blocks.0.0.weight"))
    }
    tuned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    comfy.model_management.unload_all_models()
    before = {path: unet.get_parameter(path).detach().clone() for path in dict(unet.named_parameters())}
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([tuned])
        yield before
        comfy.model_management.unload_all_models()
    assert all(torch.equal(unet.get_parameter(path), weight) for path, weight in before.items())


def test_a_weight_of_a_model_is_its_checkpoint_s_whatever_is_patched_into_it(microworld: Any, patched: Any):
    from compositional_inversion.compinv_core.host.weights import own_weight, weights_of

    unet = microworld[0].model.diffusion_model
    changed = weights_of(unet, "cross-attention keys and values")
    assert not torch.equal(unet.get_parameter(changed[0]), patched[changed[0]])
    assert all(torch.equal(own_weight(microworld[0], path), weight) for path, weight in patched.items())


def test_a_custom_diffusion_is_compared_with_the_checkpoint_s_weights(pack: Any, microworld: Any, patched: Any):
    import folder_paths
    from compositional_inversion.compinv_core.host.weights import diffusers_paths, lora_names

    model = microworld[0]
    theirs, path = next((t, o) for t, o in diffusers_paths(model).items() if o.endswith("attn2.to_k.weight"))
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "test-custom-diffusion.bin"
    try:
        key = theirs.replace(".to_k.weight", ".processor.to_k_custom_diffusion.weight")
        torch.save({key: patched[path] + 0.5}, file)
        _, lora, *_ = pack.run("CompInvLoadAdapter", model=model, file=file.name, class_word="")
        change = lora[f"{lora_names(model)[path]}.diff"]
        assert torch.allclose(change, torch.full_like(change, 0.5), atol=1e-6)  # the sum was rounded
    finally:
        file.unlink()


@pytest.mark.usefixtures("patched")
def test_the_name_of_a_model_is_the_same_while_it_is_patched(microworld: Any):
    import comfy.model_management
    from compositional_inversion.compinv_core.host.model import fingerprint_of

    now = fingerprint_of(microworld[0])
    comfy.model_management.unload_all_models()
    assert fingerprint_of(microworld[0]) == now
