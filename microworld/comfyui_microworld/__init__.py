"""Tells ComfyUI of the micro world's architecture, so that the stock checkpoint loader loads it.

The UNet is ComfyUI's own, found in the checkpoint by ComfyUI's own detection; so is the autoencoder, a TAESD. New are
only a text encoder of another width with a vocabulary of its own, and the latents' colours for previews.
"""

import json
from pathlib import Path

import comfy.clip_model
import comfy.latent_formats
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "text_encoder.json").read_text())
VOCABULARY = json.loads((HERE / "tokenizer" / "vocab.json").read_text())
START, END = VOCABULARY["<|startoftext|>"], VOCABULARY["<|endoftext|>"]


class MicroTextModel(comfy.clip_model.CLIPTextModel):
    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        width = config_dict["hidden_size"]
        self.set_input_embeddings(operations.Embedding(len(VOCABULARY), width, dtype=dtype, device=device))


class MicroEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config={**CONFIG, "eos_token_id": END},
            model_class=MicroTextModel,
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class MicroClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=MicroEncoder)


class MicroWordTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(
            tokenizer_path=str(HERE / "tokenizer"),
            embedding_directory=embedding_directory,
            embedding_size=CONFIG["hidden_size"],
            embedding_key="clip_l",
            tokenizer_data=tokenizer_data or {},
        )


class MicroTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=MicroWordTokenizer)


class MicroLatents(comfy.latent_formats.LatentFormat):
    def __init__(self):
        colors = json.loads((HERE / "latent_colors.json").read_text())
        self.latent_rgb_factors, self.latent_rgb_factors_bias = colors["factors"], colors["bias"]


class MicroWorld(comfy.supported_models_base.BASE):
    unet_config = {"context_dim": CONFIG["hidden_size"], "model_channels": 64, "use_linear_in_transformer": False}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = MicroLatents

    def process_clip_state_dict(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"cond_stage_model.": "clip_l."}, filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": "cond_stage_model."})

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(MicroTokenizer, MicroClip)


if not any(model.__name__ == "MicroWorld" for model in comfy.supported_models.models):
    comfy.supported_models.models.append(MicroWorld)

NODE_CLASS_MAPPINGS = {}
