"""Whether another commit's nodes still give what this tree's give, bit for bit.

    python scripts/host.py python benchmarks/unchanged.py ec51150     compares a commit with the working tree

Words are learnt, layouts recovered and pictures sampled on the micro world by both, through the nodes, whose ids and inputs
stay; what comes out is compared by its bytes. Texts are left out, for sentences may change.
"""

import argparse
import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIDE = 8  # of a latent


def compare(commit: str) -> int:
    """Print a line for each result of either side; how many differ."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(before), commit], cwd=ROOT, check=True)
        try:
            old = results(before)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
        after.symlink_to(ROOT)
        new = results(after)
    different = 0
    for name in dict.fromkeys([*old, *new]):
        same = old.get(name) == new.get(name)
        different += not same
        print(f"{'same     ' if same else 'DIFFERENT'} {name}: {old.get(name)} {new.get(name)}")
    print(f"{len(old)} results, {different} of them different.")
    return different


def results(pack: Path) -> dict[str, str]:
    """Of the pack in a folder, in a process of its own."""
    command = [sys.executable, __file__, "--pack", str(pack)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def digest(*values: Any) -> str:
    """Equal for equal bytes."""
    import torch

    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().float().numpy().tobytes())
        elif isinstance(value, dict):
            for key, held in sorted(value.items()):
                found.update(str(key).encode())
                add(held)
        elif isinstance(value, (list, tuple)):
            for held in value:
                add(held)
        else:
            found.update(repr(value).encode())

    add(values)
    return found.hexdigest()[:16]


class Pack:
    """A pack's nodes by id, on a base folder of their own."""

    def __init__(self, pack: Path, base: Path):
        sys.path.insert(0, os.environ["COMFYUI_PATH"])
        from comfy.cli_args import args

        args.cpu = True
        import folder_paths
        import torch

        torch.set_num_threads(1)
        for kind in ("checkpoints", "embeddings"):
            (base / "models" / kind).mkdir(parents=True)
            folder_paths.add_model_folder_path(kind, str(base / "models" / kind), is_default=True)
        folder_paths.models_dir = str(base / "models")
        folder_paths.set_output_directory(str(base / "output"))
        folder_paths.set_user_directory(str(base / "user"))
        shutil.copy(pack / "microworld" / "microworld.safetensors", base / "models" / "checkpoints")
        self._package("comfyui_microworld", pack / "microworld" / "comfyui_microworld")
        door = self._package("compositional_inversion", pack)
        nodes = asyncio.run(asyncio.run(door.comfy_entrypoint()).get_node_list())
        self.nodes = {node.define_schema().node_id: node for node in nodes}
        self.base, self.pictures = base, pack / "microworld" / "user_pictures"

    def reading_the_whole_prompt(self, node: str) -> dict[str, str]:
        """What makes a node read a prompt as those before regional reading do, which have no such input."""
        known = [one.id for one in self.nodes[node].define_schema().inputs]
        return {"reading": "whole prompt"} if "reading" in known else {}

    @staticmethod
    def _package(name: str, folder: Path) -> Any:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def __call__(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        import torch

        with torch.inference_mode():
            return self.nodes[node].execute(**inputs).args

    def images(self, concept: str) -> list[Any]:
        """A user's pictures, each a batch of one."""
        import numpy as np
        import torch
        from PIL import Image

        files = sorted((self.pictures / concept).iterdir())
        return [torch.from_numpy(np.asarray(Image.open(f).convert("RGB"), np.float32) / 255)[None] for f in files]


def training_inputs(pack: Pack, loaded: tuple[Any, Any, Any], concept: str, word: str, **chosen: Any) -> dict[str, Any]:
    """Of Compositional Inversion Train, whose inputs come as lists."""
    model, clip, vae = loaded
    settings = {
        "placeholder": concept, "class_word": word, "resolution": 64, "steps": 20, "batch": 4, "vectors": 3,
        "learning_rate": 0.1, "anchor_weight": 0.1, "kind": "object", "mirror": True, "ignore_background": True, "seed": 7,
        **chosen,
    }  # fmt: skip
    as_lists = {key: value if isinstance(value, list) else [value] for key, value in settings.items()}
    return {"model": [model], "clip": [clip], "vae": [vae], "images": pack.images(concept), **as_lists}


def of_training(outputs: tuple[Any, ...]) -> str:
    concept, _, preview, best, losses, learnt = outputs[:6]
    return digest(concept.vectors, concept.class_word, preview, best.vectors, losses["loss"], learnt)


@contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """For its time, a run is cancelled as by the user after so many steps."""
    import comfy.model_management as management
    import comfy.utils

    stock, done = comfy.utils.ProgressBar.update, [0]

    def update(self: Any, value: int) -> None:
        done[0] += value
        if done[0] >= steps:
            management.interrupt_current_processing(True)
        stock(self, value)

    comfy.utils.ProgressBar.update = update
    try:
        yield
    except management.InterruptProcessingException:
        pass
    finally:
        comfy.utils.ProgressBar.update = stock
        management.interrupt_current_processing(False)


def words(pack: Pack, loaded: tuple[Any, Any, Any]) -> Iterator[tuple[str, Any]]:
    """Words learnt in every way that the nodes offer; the last of each pair is what to remember."""
    import torch
    from safetensors.torch import load_file

    model, clip, _ = loaded

    def train(concept: str, word: str, **chosen: Any) -> tuple[Any, ...]:
        return pack("CompInvTrain", **training_inputs(pack, loaded, concept, word, **chosen))

    nearest, *_ = pack(
        "CompInvAnchorSelect", clip=clip, class_word="car", how="nearest words", words="", count=4, weights="learnt while training"
    )  # fmt: skip
    only, *_ = pack("CompInvAnchorSelect", clip=clip, class_word="cat", how="class word only", words="", count=4)
    zippy = train("zippy", "car", anchors=nearest)
    yield "zippy", zippy[0]
    yield "a word with learnt anchors", of_training(zippy)
    mittens = train("mittens", "cat", anchors=only)
    yield "mittens", mittens[0]
    yield "a word with its class word as the anchor", of_training(mittens)
    plain = train("sippy", "cup", vectors=1, ignore_background=False, mirror=False)
    yield "plain textual inversion", of_training(plain)
    yield "a word gone on with", of_training(train("sippy", "cup", anchors=only, start_from=plain[0], seed=8))
    (options,) = pack(
        "CompInvTrainingOptions", preset=["as set on the training node"], anchor_schedule=["growing"], noise_levels=["high"],
        rescale=[True], prompts=["a photo of {}\na bright photo of my {}"],
    )  # fmt: skip
    masks = [torch.zeros(image.shape[:3]) for image in pack.images("zippy")]
    for mask in masks:
        mask[:, 8:-8, 8:-4] = 1
    yield (
        "own prompts, masks, rescaled",
        of_training(train("zippy", "car", anchors=nearest, options=options, masks=masks)),
    )
    yield "a style", of_training(train("mittens", "photo", kind="style", anchors=only))
    (paper,) = pack(
        "CompInvTrainingOptions", preset=["paper"], anchor_schedule=["constant"], noise_levels=["even"], rescale=[False], prompts=[""]
    )  # fmt: skip
    with stopped_after(15):
        train("throne", "chair", anchors=only, options=paper)
    (kept,) = (pack.base / "output" / "embeddings").glob("throne*")
    yield "the paper's preset, cancelled after 15 steps", digest(load_file(kept))
    repaired, _ = pack(
        "CompInvRepairConcept", model=model, clip=clip, concept=plain[0], class_word="cup", placeholder="sippy-again", vectors=2,
        resolution=64, pictures=6, cfg=5.0, steps=20, batch=3, anchor_weight=0.1, seed=3,
    )  # fmt: skip
    yield "a repaired word", digest(repaired.vectors, repaired.class_word)


def layouts(pack: Pack, loaded: tuple[Any, Any, Any], positive: Any, negative: Any) -> Iterator[tuple[str, Any]]:
    import torch

    model, clip, _ = loaded
    empty = {"samples": torch.zeros(1, 4, SIDE, SIDE)}

    def recover(method: str, **chosen: Any) -> tuple[Any, ...]:
        settings = {"boxes": "", "steps": 8, "cfg": 5.0, "seed": 11, **chosen}
        inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": empty}
        return pack("CompInvLayoutRecover", **inputs, method=method, **settings)

    recovered = recover("from attention")
    yield "layout", recovered[0]
    yield "a recovered layout", digest(recovered[2], recovered[3])
    yield "a layout of four pictures", digest(recover("from attention", pictures=4)[2:4])
    yield "default boxes", digest(recover("default boxes")[2:4])
    pack("CompInvTrainLayoutPredictor", model=model, clip=clip, prompts=24, resolution=64, steps=4, cfg=5.0, seed=0)
    yield "a predicted layout", digest(recover("predicted")[2:4])


def pictures(
    pack: Pack, loaded: tuple[Any, Any, Any], positive: Any, negative: Any, layout: Any
) -> Iterator[tuple[str, str]]:
    import torch

    import nodes

    model, *_ = loaded
    latent = {"samples": torch.zeros(2, 4, SIDE, SIDE)}
    regular = {
        "steering": 6.0, "steering_until": 1.0, "guidance": 0.0, "corrections": 5, "guidance_until": 0.2, "threshold": 0.2,
    }  # fmt: skip

    def sample(sampler: str = "euler", cfg: float = 5.0, **chosen: Any) -> Any:
        run = {"seed": 5, "steps": 10, "cfg": cfg, "sampler_name": sampler, "scheduler": "normal", "denoise": 1.0}
        inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent, **run}
        node = "CompInvRegularizedSampler"
        chosen |= pack.reading_the_whole_prompt(node)
        return pack(node, **inputs, **{**regular, **chosen})[0]["samples"]

    yield "plain sampling", digest(sample())
    for sampler in ("euler", "dpmpp_2m_sde", "heun", "uni_pc"):
        yield f"steered with {sampler}", digest(sample(sampler, layout=layout))
    yield "steered at CFG 1", digest(sample(cfg=1.0, layout=layout))
    yield "steered and balanced", digest(sample(layout=layout, balance=1.0))
    yield "balanced without a layout", digest(sample(balance=0.7))
    for sampler in ("euler", "uni_pc"):
        yield f"guided with {sampler}", digest(sample(sampler, layout=layout, steering=0.0, guidance=30.0))
    yield "guided, steered, balanced", digest(sample(layout=layout, guidance=30.0, balance=1.0, guidance_until=0.5))
    regular |= pack.reading_the_whole_prompt("CompInvRegularizeModel")
    (patched,) = pack("CompInvRegularizeModel", model=model, layout=layout, **regular)
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(patched, 5, 10, 5.0, "dpmpp_2m", "karras", positive, negative, latent)
    yield "a model with spatial regularization", digest(out["samples"])


def run(pack: Path) -> dict[str, str]:
    """Every result's digest by its name."""
    found: dict[str, str] = {}
    held: dict[str, Any] = {}

    def note(pairs: Iterator[tuple[str, Any]]) -> None:
        for name, value in pairs:
            (found if isinstance(value, str) else held)[name] = value
            print(name, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        mine = Pack(pack, Path(folder))
        import torch

        import nodes

        with torch.inference_mode():
            loaded = nodes.CheckpointLoaderSimple().load_checkpoint("microworld.safetensors")[:3]
        note(words(mine, loaded))
        clip, _ = mine("CompInvApplyConcept", clip=loaded[1], concept=held["zippy"], anchor_mix=0.25, strength=1.2)
        clip, _ = mine("CompInvApplyConcept", clip=clip, concept=held["mittens"])
        text = "a photo of embedding:zippy and an embedding:mittens cat next to a (boat:1.2)"
        (positive,) = mine("CompInvPrompt", clip=clip, text=text, subjects="zippy, mittens, boat")
        with torch.inference_mode():
            (negative,) = nodes.CLIPTextEncode().encode(loaded[1], "")
        entry, rest = positive[0]
        found["a composition prompt"] = digest(entry, rest["pooled_output"], rest["compinv_probe"][0][0])
        found["where its subjects are"] = digest([(s.columns, s.probe_columns) for s in rest["compinv_subjects"]])
        note(layouts(mine, loaded, positive, negative))
        note(pictures(mine, loaded, positive, negative, held["layout"]))
        said = mine(
            "CompInvConceptReport", model=loaded[0], clip=loaded[1], concept=held["zippy"], class_word="car", beside="cat, boat",
            resolution=64, steps=8, cfg=5.0, seed=2, vae=loaded[2],
        )  # fmt: skip
        attention = json.loads(said[2])
        found["a report's figures"] = digest(
            [attention[key] for key in ("dominance", "kept", "attention", "ordinary", "repeated")],
            attention["standings"],
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("commit", nargs="?")
    parser.add_argument("--pack", type=Path)
    asked = parser.parse_args()
    if asked.pack is not None:
        print(json.dumps(run(asked.pack)))
        sys.exit(0)
    sys.exit(1 if compare(asked.commit) else 0)
