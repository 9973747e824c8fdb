"""Tells ComfyUI of the micro worlds' architecture, so that the stock checkpoint loader loads them.

The UNet is ComfyUI's own, found in the checkpoint by ComfyUI's own detection; so is the autoencoder, a TAESD. New are
only text encoders of another width with vocabularies of their own, and the latents' colours for previews. The first
world's files lie in this folder, each other world's in a folder of its own. The width tells them apart.
"""

import json
from pathlib import Path

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base


def micro_world(folder: Path) -> type[comfy.supported_models_base.BASE]:
    """The model class of the world whose text encoder and tokenizer are in a folder."""
    config = json.loads((folder / "text_encoder.json").read_text())
    width = config["hidden_size"]
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]

    class MicroTextModel(comfy.clip_model.CLIPTextModel):
        def __init__(self, config_dict, dtype, device, operations):
            super().__init__(config_dict, dtype, device, operations)
            self.set_input_embeddings(operations.Embedding(len(vocabulary), width, dtype=dtype, device=device))

    class MicroEncoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config={**config, "eos_token_id": end},
                model_class=MicroTextModel,
                special_tokens={"start": start, "end": end, "pad": end},
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class MicroClip(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=MicroEncoder)

    class MicroWordTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                tokenizer_path=str(folder / "tokenizer"),
                embedding_directory=embedding_directory,
                embedding_size=width,
                embedding_key="clip_l",
                tokenizer_data=tokenizer_data or {},
            )

    class MicroTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=MicroWordTokenizer)

    class MicroLatents(comfy.latent_formats.LatentFormat):
        def __init__(self):
            file = folder / "latent_colors.json"
            if file.exists():  # the last step of making a world writes it
                colors = json.loads(file.read_text())
                self.latent_rgb_factors, self.latent_rgb_factors_bias = colors["factors"], colors["bias"]

    class MicroWorld(comfy.supported_models_base.BASE):
        unet_config = {"context_dim": width, "model_channels": 64, "use_linear_in_transformer": False}
        unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
        latent_format = MicroLatents

        def model_type(self, state_dict, prefix=""):
            """As of SDXL: an empty tensor says that a checkpoint predicts v."""
            kinds = comfy.model_base.ModelType
            return kinds.V_PREDICTION if "v_pred" in state_dict else kinds.EPS

        def process_clip_state_dict(self, state_dict):
            return comfy.utils.state_dict_prefix_replace(state_dict, {"cond_stage_model.": "clip_l."}, filter_keys=True)

        def process_clip_state_dict_for_saving(self, state_dict):
            return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": "cond_stage_model."})

        def clip_target(self, state_dict=None):
            return comfy.supported_models_base.ClipTarget(MicroTokenizer, MicroClip)

    return MicroWorld


if not any(model.__name__ == "MicroWorld" for model in comfy.supported_models.models):
    here = Path(__file__).parent
    for file in (here / "text_encoder.json", *sorted(here.glob("*/text_encoder.json"))):
        comfy.supported_models.models.append(micro_world(file.parent))

NODE_CLASS_MAPPINGS = {}
