"""Save, Merge and Load Concept Adapters: a learnt change of the model as a LoRA file that stock Load LoRA loads."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..compinv_core.concept import Concept, check_name, file_of
from ..compinv_core.custom_diffusion import read_custom_diffusion
from ..compinv_core.files import first_free, write_tensors
from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.weights import adapter_of, adapter_of_any, diffusers_paths, lora_names, own_weight
from ..compinv_core.merging import merged_adapter
from .concepts import NUMBER, REFUSE, REPLACE, endings
from .types import CATEGORY, ConceptType, found_by

LoraType = io.Custom("LORA_MODEL")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SUFFIXES = (".bin", ".safetensors", ".pt", ".pth")
MOST = 4


class CompInvSaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvSaveAdapter",
            display_name="Save Concept Adapter",
            category=CATEGORY,
            **found_by("save lora", "dreambooth"),
            description="Saves a concept's embedding in the embeddings folder and its adapter, under the same name, in the loras folder; stock "
            "Load LoRA loads it. Of an adapter of two concepts, both embeddings.",
            is_output_node=True,
            inputs=[
                ConceptType.Input("concept", tooltip="From Compositional Fine-Tune."),
                LoraType.Input("adapter", tooltip="From Compositional Fine-Tune or Merge Concept Adapters."),
                io.String.Input("name", default="", tooltip="File name without extension. Empty: the placeholder."),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Rank that each matrix of the change is reduced to by SVD; smaller files, less of the change. Matrices smaller than it "
                    "lose nothing. 0 saves it as learnt.",
                ),
                io.Combo.Input("dtype", options=list(DTYPES), tooltip="Number format of the adapter's file."),
                io.Combo.Input(
                    "if_it_exists",
                    options=[REFUSE, REPLACE, NUMBER],
                    tooltip="When one of the files exists: stop with an error, overwrite it, or add a number to the name.",
                ),
                ConceptType.Input(
                    "second",
                    optional=True,
                    tooltip="The second concept of the adapter, saved under its own placeholder. Unconnected: there is none.",
                ),
            ],
            outputs=[
                ConceptType.Output("SAVED", display_name="concept", tooltip="The concept, under the name of its file."),
                io.String.Output("NAME", display_name="name", tooltip='For prompts: "embedding:" and the name.'),
                io.String.Output(
                    "SUMMARY",
                    display_name="summary",
                    tooltip="The files, the adapter's size, and how much of the change is lost by rank.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        concept: Concept,
        adapter: dict[str, Any],
        name: str,
        rank: int,
        dtype: str,
        if_it_exists: str,
        second: Concept | None = None,
    ) -> io.NodeOutput:
        concepts = [replace(concept, name=name.strip() or concept.name), *([second] if second is not None else [])]
        names = [one.name for one in concepts]
        for own in names:
            check_name(own)
        if len({own.lower() for own in names}) < len(names):
            raise ValueError(f'Both concepts would be saved as "{names[0]}"; choose another name for the first.')
        change, weights = adapter_of_any(adapter)
        lost = 0.0
        if rank:
            change, lost = change.reduced(rank)
        embeddings, loras = (Path(folder_paths.get_folder_paths(kind)[0]) for kind in ("embeddings", "loras"))
        tensors = change.to_lora(weights, DTYPES[dtype])

        def named(ending: str) -> tuple[list[Concept], Path, list[Path]]:
            saved = [replace(one, name=f"{own}{ending}") for one, own in zip(concepts, names, strict=True)]
            places = [embeddings / f"{one.name}.safetensors" for one in saved]
            return saved, loras / f"{saved[0].name}.safetensors", places

        def write(ending: str) -> None:
            saved, file, places = named(ending)
            together = " and ".join(one.name for one in saved)
            metadata = {**concept.provenance, "concept": together, "class_word": concept.class_word}
            write_tensors(
                (tensors, file, metadata),
                *(file_of(one, place) for one, place in zip(saved, places, strict=True)),
                replace=if_it_exists == REPLACE,
            )

        saved, file, places = named(first_free(endings(if_it_exists), write))
        told = "\n".join(str(place) for place in places)
        summary = (
            f"{told}\n{file} ({file.stat().st_size / 1e6:.1f} MB, {change.numbers / 1e6:.2f} M "
            f"parameters{f'; reducing it to rank {rank} loses {lost:.1%} of the change' if rank else ''})"
        )
        return io.NodeOutput(saved[0], f"embedding:{saved[0].name}", summary)


class CompInvMergeAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        pairs: list[Any] = []
        for number in range(1, MOST + 1):
            optional = number > 2
            told = " Unconnected: fewer are merged." if optional else ""
            pairs += [
                ConceptType.Input(
                    f"concept_{number}", optional=optional, tooltip=f"A concept, with its class word.{told}"
                ),
                LoraType.Input(f"adapter_{number}", optional=optional, tooltip=f"That concept's adapter.{told}"),
            ]
        return io.Schema(
            node_id="CompInvMergeAdapters",
            display_name="Merge Concept Adapters",
            category=CATEGORY,
            description="Merges two to four concepts' adapters of keys and values into one, in closed form and without training (Custom "
            "Diffusion): each concept's prompts give what they gave with its own adapter, ordinary prompts change least.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapters were trained for. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                *pairs,
            ],
            outputs=[
                LoraType.Output(
                    "MERGED", display_name="adapter", tooltip="One adapter for all, for Save Concept Adapter."
                ),
                io.Model.Output(
                    "TUNED", display_name="model", tooltip="The model with the merged adapter at strength 1."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, **inputs: Any) -> io.NodeOutput:
        parts: list[tuple[Concept, dict[str, Any]]] = []
        for number in range(1, MOST + 1):
            concept, lora = inputs.get(f"concept_{number}"), inputs.get(f"adapter_{number}")
            if (concept is None) != (lora is None):
                missing = "concept" if concept is None else "adapter"
                raise ValueError(f'The input "{missing}_{number}" is not connected; a concept comes with its adapter.')
            if concept is not None and lora is not None:
                parts.append((concept, lora))
        backbone = ComfyBackbone(model, clip)
        read = {id(lora): adapter_of(backbone.model, lora) for _, lora in parts}  # one that comes twice is still one
        merged = merged_adapter(backbone, [(concept, read[id(lora)]) for concept, lora in parts]).to_lora(
            backbone.lora_names
        )
        tuned, _ = comfy.sd.load_lora_for_models(model, None, merged, 1.0, 0.0)
        return io.NodeOutput(merged, tuned)


class CompInvLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLoadAdapter",
            display_name="Load Custom Diffusion",
            category=CATEGORY,
            description="Loads a Custom Diffusion from the loras folder: diffusers' pytorch_custom_diffusion_weights.bin or adobe's delta.bin, "
            "as a concept and a LoRA.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model that the file was trained for; the file holds new weights, not differences. It is not changed.",
                ),
                io.Combo.Input("file", options=_files(), tooltip="A file of the loras folder."),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="One ordinary word for the concept. Empty: none, and a layout cannot be recovered for it.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The embedding, where the file holds it; diffusers saves it apart, for Load Concept.",
                ),
                LoraType.Output("LORA_MODEL", display_name="adapter", tooltip="The change of the model as a LoRA."),
                io.Model.Output(
                    "TUNED", display_name="model", tooltip="The model with the adapter applied at strength 1."
                ),
                io.String.Output("FOUND", display_name="found", tooltip="What the file holds."),
                ConceptType.Output(
                    "SECOND", display_name="second concept", tooltip="The second embedding of a file that holds two."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> tuple[str, int, int]:
        stat = Path(folder_paths.get_full_path_or_raise("loras", file)).stat()
        return file, stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(cls, model: Any, file: str, class_word: str) -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise("loras", file))
        words, adapter = read_custom_diffusion(
            path, diffusers_paths(model), partial(own_weight, model), class_word.strip()
        )
        lora = adapter.to_lora(lora_names(model))
        tuned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        named = ", ".join(f"embedding:{word.name}" for word in words) or "no embedding"
        found = f'"{path.name}": {named}; {len(adapter.changes)} matrices, {adapter.numbers / 1e6:.1f} M parameters.'
        none = ExecutionBlocker(
            f'"{path.name}" holds fewer embeddings than are wanted; load the others with Load Concept.'
        )
        first, second = [*words, none, none][:2]
        return io.NodeOutput(first, lora, tuned, found, second)


def _files() -> list[str]:
    return [f for f in folder_paths.get_filename_list("loras") if Path(f).suffix.lower() in SUFFIXES and "<" not in f]


NODES = [CompInvSaveAdapter, CompInvMergeAdapters, CompInvLoadAdapter]
