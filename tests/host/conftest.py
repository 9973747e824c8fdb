"""Real ComfyUI in process: text encoders of the real shapes and tokenizers, but narrow, shallow and with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def _clip(tokenizer: Any, model: Any, folder: Path, encoders: tuple[str, ...]) -> Any:
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    small = {"num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 4}
    widths = {"clip_l": 48, "clip_g": 64, "clip_h": 56}
    options = {f"{key}_model_config": {**small, "hidden_size": widths[key]} for key in encoders}
    with torch.inference_mode():  # as ComfyUI loads every checkpoint
        clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), embedding_directory=[str(folder)], model_options=options)
        generator = torch.Generator().manual_seed(0)
        for name, weight in clip.cond_stage_model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.1 * noise)
    return clip


@pytest.fixture(autouse=True)
def own_folders(comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What nodes write goes to `output`, `user` and `models` in a folder of the test's, not to the host's own."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "layout_predictors", ([], set()))
    return tmp_path


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the text encoders below look for embeddings."""
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="session")
def sd1(comfyui: Path, embeddings: Path) -> Any:
    """A CLIP of SD 1.x: clip_l, 48 wide."""
    import comfy.sd1_clip as host

    return _clip(host.SD1Tokenizer, host.SD1ClipModel, embeddings, ("clip_l",))


@pytest.fixture(scope="session")
def sd2(comfyui: Path, embeddings: Path) -> Any:
    """A CLIP of SD 2.x: clip_h, 56 wide."""
    import comfy.text_encoders.sd2_clip as host

    class ClipH(host.SD2ClipHModel):
        """SD 2.x gives its options no name of their own, so its small shape is asked for under another's."""

        def __init__(self, model_options: Any = None, **rest: Any) -> None:
            super().__init__(model_options={**(model_options or {}), "model_name": "clip_h"}, **rest)

    class Model(host.SD2ClipModel):
        def __init__(self, model_options: Any = None, **rest: Any) -> None:
            super().__init__(model_options={**(model_options or {}), "clip_h_class": ClipH}, **rest)

    return _clip(host.SD2Tokenizer, Model, embeddings, ("clip_h",))


@pytest.fixture(scope="session")
def refiner(comfyui: Path, embeddings: Path) -> Any:
    """A CLIP of SDXL's refiner: clip_g, 64 wide."""
    import comfy.sdxl_clip as host

    return _clip(host.SDXLTokenizer, host.SDXLRefinerClipModel, embeddings, ("clip_g",))


@pytest.fixture(scope="session")
def sdxl(comfyui: Path, embeddings: Path) -> Any:
    """A CLIP of SDXL: clip_l, 48 wide, and clip_g, 64 wide."""
    import comfy.sdxl_clip as host

    return _clip(host.SDXLTokenizer, host.SDXLClipModel, embeddings, ("clip_l", "clip_g"))


@pytest.fixture(scope="session", params=["sd1", "sd2", "sdxl"])
def clip(request: pytest.FixtureRequest) -> Any:
    """Each family in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def concept_for() -> Callable[..., Any]:
    """`concept_for(clip, name, n)` is a random concept that fits this CLIP."""

    def make(clip: Any, name: str = "my-cat", n: int = 2, class_word: str = "cat") -> Any:
        from compositional_inversion.compinv_core.concept import Concept
        from compositional_inversion.compinv_core.host.text_encoder import text_encoders

        generator = torch.Generator().manual_seed(len(name) + n)
        return Concept(
            name,
            {
                key: torch.randn(n, encoder.transformer.get_input_embeddings().weight.shape[1], generator=generator) / 9
                for key, encoder in text_encoders(clip).items()
            },
            class_word,
        )

    return make
