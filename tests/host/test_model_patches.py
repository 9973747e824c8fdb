"""Every node of the host's that takes a MODEL and gives one: beside each, ours off changes no bit, ours on, guidance and training work
or say in one sentence whose patch they cannot go through. Nodes are found by their types, so that a new host's join by themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from package import finished
from test_regional_reading import LEFT, RIGHT, TWO, boxes, two  # noqa: F401 - a fixture
from test_sampling import ksampler, layout, negative, prompt, sample
from test_training import training

NOT_TRIED = {
    "TorchCompileModel": "needs a compiler, and gives the model itself",
    "TrainLoraNode": "trains for itself; the model that it gives has a LoRA, as LoraModelLoader's has",
}
NOT_BUILT = (
    "AnimaLLLiteApply",
    "FluxKVCache",
    "HiDreamO1PatchSeamSmoothing",
    "LTXVReferenceAudio",
    "ModelNoiseScale",
    "QwenImageDiffsynthControlnet",
    "SUPIRApply",
    "TripoSplatSamplingPreview",
    "USOStyleReference",
    "WanInfiniteTalkToVideo",
    "WanUni3CControlnetApply",
)
"""For models of other architectures: nodes of one host or another that cannot be built here, or with which it does not sample itself."""
LARGE = ("LatentApplyOperationCFG",)  # whose operation may blur over nine cells
WITHOUT_WEIGHTS = ("ModelMergeSubtract",)  # of a MODEL and itself, in which nothing attends to anything
FEW = {"steps": 2}


class CannotBuild(Exception):
    pass


class Host:
    """Its nodes, and what they need made of small real things."""

    def __init__(self, microworld: Any, folder: Path):
        import folder_paths

        import nodes

        self.model, self.clip, self.vae = microworld
        failed = finished(nodes.init_builtin_extra_nodes())
        self.unread = {name.removesuffix(".py") for name in failed}
        core = {
            name: node
            for name, node in nodes.NODE_CLASS_MAPPINGS.items()
            if getattr(node, "RELATIVE_PYTHON_MODULE", "nodes").split(".")[0] in ("nodes", "comfy_extras")
        }
        self.nodes: dict[str, Any] = core
        for kind in ("loras", "hypernetworks"):
            (folder / kind).mkdir()
            folder_paths.add_model_folder_path(kind, str(folder / kind), is_default=True)
        torch.save(lora(), folder / "loras" / "small.pt")
        torch.save(hypernetwork(), folder / "hypernetworks" / "small.pt")

    def patches(self) -> list[str]:
        """Names of the nodes that take a MODEL and give one; of those that run the same code, as all merges by block, the first."""
        found: dict[Any, str] = {}
        for name, node in sorted(self.nodes.items()):
            if "MODEL" in outputs(node) and "MODEL" in needs(node):
                code = getattr(node, "execute", None) or getattr(node, node.FUNCTION)
                found.setdefault(getattr(code, "__func__", code), name)
        return sorted(found.values())

    def patched(self, name: str) -> Any:
        """The MODEL that a node gives, with what its widgets begin with."""
        return self.run(name)[outputs(self.nodes[name]).index("MODEL")]

    def run(self, name: str) -> tuple[Any, ...]:
        node = self.nodes[name]
        given = {key: self.value(key, kind) for key, kind in node.INPUT_TYPES().get("required", {}).items()}
        found = getattr(node(), node.FUNCTION)(**given)
        return tuple(
            found.args if hasattr(found, "args") else found.get("result", ()) if isinstance(found, dict) else found
        )

    def value(self, name: str, kind: Any) -> Any:
        """Of an input."""
        kind, more = kind[0], kind[1] if len(kind) > 1 else {}
        if name in ("lora_name", "hypernetwork_name"):
            return "small.pt"
        if not isinstance(kind, str) or kind == "COMBO":
            options = more.get("options", []) if isinstance(kind, str) else kind
            if "default" not in more and not options:
                raise CannotBuild(f'"{name}" has nothing to choose from')
            return more.get("default", next(iter(options), None))
        if kind in ("FLOAT", "INT", "STRING", "BOOLEAN"):
            return more.get("default", {"FLOAT": 0.5, "INT": 1, "STRING": "", "BOOLEAN": False}[kind])
        things: dict[str, Callable[[], Any]] = {
            "MODEL": lambda: self.model,
            "CLIP": lambda: self.clip,
            "VAE": lambda: self.vae,
            "CONDITIONING": lambda: negative((self.model, self.clip, self.vae)),
            "LATENT": lambda: {"samples": torch.zeros(1, 4, 8, 8)},
            "IMAGE": lambda: torch.rand(1, 64, 64, 3),
            "LORA_MODEL": lora,
        }
        if kind in things:
            return things[kind]()
        makers = [
            other for other, node in self.nodes.items() if outputs(node)[:1] == [kind] and kind not in needs(node)
        ]
        for other in sorted(makers):
            try:
                return self.run(other)[0]
            except Exception:  # another may make it
                continue
        raise CannotBuild(f'nothing makes "{name}", a {kind}')


def needs(node: Any) -> list[str]:
    return [kind[0] for kind in node.INPUT_TYPES().get("required", {}).values() if isinstance(kind[0], str)]


def outputs(node: Any) -> list[str]:
    return list(node.RETURN_TYPES)


def lora() -> dict[str, torch.Tensor]:
    """Of one attention's keys, of rank 2."""
    generator = torch.Generator().manual_seed(0)
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    sides = {"down": (2, 96), "up": (128, 2)}
    return {name.format(end): torch.randn(side, generator=generator) / 9 for end, side in sides.items()}


def hypernetwork() -> dict[Any, Any]:
    """One layer, as A1111 writes it; of the width of the micro world's texts."""
    generator = torch.Generator().manual_seed(0)
    layer = {"linear.0.weight": torch.randn(96, 96, generator=generator) / 30, "linear.0.bias": torch.zeros(96)}
    return {"activation_func": "linear", "is_layer_norm": False, "use_dropout": False, "activate_output": False,
            "last_layer_dropout": False, 96: (layer, layer)}  # fmt: skip


@pytest.fixture(scope="module")
def host(pack: Any, microworld: Any, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(microworld, tmp_path_factory.mktemp("patches"))


@dataclass(frozen=True)
class Patched:
    """What a node gives, the latents to sample from, what the host samples, and whether nothing in it attends to anything."""

    model: Any
    few: dict[str, Any]
    plain: torch.Tensor
    weightless: bool


@dataclass(frozen=True)
class Tried:
    models: dict[str, Patched]
    failed: dict[str, str]


@pytest.fixture(scope="module")
def tried(pack: Any, microworld: Any, host: Host) -> Tried:
    found, failed = dict[str, Patched](), dict[str, str]()
    for name in host.patches():
        if name in NOT_TRIED:
            continue
        few = {**FEW, "latent_image": {"samples": torch.zeros(1, 4, *[16 if name in LARGE else 8] * 2)}}
        try:
            with torch.inference_mode():
                model = host.patched(name)
            found[name] = Patched(model, few, ksampler(pack, microworld, model, **few), name in WITHOUT_WEIGHTS)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return Tried(found, failed)


@pytest.fixture
def models(tried: Tried) -> dict[str, Patched]:
    return tried.models


def test_each_node_is_tried_or_named_with_the_reason(host: Host, tried: Tried, pack: Any, microworld: Any):
    assert set(tried.failed) == {*NOT_BUILT} & {*host.patches()}, "\n".join(map(str, tried.failed.items()))
    assert {"FreeU_V2", "HypernetworkLoader", "PerpNeg", "EasyCache", "SelfAttentionGuidance"} <= set(tried.models)
    plain = ksampler(pack, microworld, **{**FEW, "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}})
    assert sum(not torch.equal(own.plain, plain) for own in tried.models.values()) > 12  # they do something


def each(models: dict[str, Patched], attempt: Callable[[Patched], None]) -> None:
    """Fails with all nodes beside which the attempt fails."""
    failures: dict[str, str] = {}
    for name, own in models.items():
        try:
            attempt(own)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error)[:400]}"
    assert not failures


def works_or_says_why(attempt: Callable[[], Any], what: str) -> None:
    """The sentence names the patch."""
    try:
        found = attempt()
    except ValueError as error:
        text = str(error)
        assert what == "Training" and len(text) <= 300, text
        assert text.startswith('The input "model" has a patch that sets how it samples ('), text
    except RuntimeError as error:
        text = str(error)
        assert text.startswith(f"{what} needs gradients") and len(text) <= 300 and "\n" not in text, text
        assert "through a patch of this MODEL (" in text, text  # it is named
    else:
        assert found.isfinite().all()


def test_beside_each_ours_off_changes_no_bit(pack: Any, microworld: Any, models: dict[str, Patched]):
    regions = layout(pack, microworld)[0]

    def off(own: Patched) -> None:
        assert torch.equal(
            sample(pack, microworld, model=own.model, layout=regions, guidance=0.0, **own.few)[0]["samples"], own.plain
        )

    each(models, off)


def test_beside_each_steering_and_balance_are_finite(pack: Any, microworld: Any, models: dict[str, Patched]):
    ways = {"guidance": 0.0, "steering": 6.0, "balance": 1.0, "layout": layout(pack, microworld)[0]}

    def on(own: Patched) -> None:
        found = sample(pack, microworld, model=own.model, **ways, **own.few)[0]["samples"]
        assert found.isfinite().all() and torch.equal(found, own.plain) is own.weightless

    each(models, on)


def test_beside_each_regional_reading_is_finite(pack: Any, microworld: Any, two: Any, models: dict[str, Patched]):  # noqa: F811
    positive = prompt(pack, two, TWO, "embedding:blue-cat, embedding:green-car")
    ways = {
        "guidance": 0.0,
        "reading": "regional",
        "layout": boxes(blue_cat=LEFT, green_car=RIGHT),
        "positive": positive,
    }

    def on(own: Patched) -> None:
        found = sample(pack, microworld, model=own.model, **ways, **own.few)[0]["samples"]
        whole = sample(pack, microworld, model=own.model, **{**ways, "reading": "whole prompt"}, **own.few)[0][
            "samples"
        ]
        assert found.isfinite().all() and torch.equal(found, whole) is own.weightless

    each(models, on)


def test_beside_each_guidance_works_or_says_whose_patch_it_cannot_go_through(
    pack: Any, microworld: Any, models: dict[str, Patched]
):
    regions = layout(pack, microworld)[0]
    guided = {"guidance": 3.0, "corrections": 1, "guidance_until": 1.0}

    def guide(own: Patched) -> None:
        works_or_says_why(
            lambda: sample(pack, microworld, model=own.model, layout=regions, **guided, **own.few)[0]["samples"],
            "Guidance",
        )

    each(models, guide)


def test_beside_each_training_works_or_says_whose_patch_it_cannot_go_through(
    pack: Any, microworld: Any, models: dict[str, Patched], tmp_path: Path
):
    def learn(own: Patched) -> None:
        def attempt() -> Any:
            one = training(pack, (own.model, *microworld[1:]))
            return one.run(tmp_path, lambda: False, lambda _: None).parameters["plain/clip_l"]

        works_or_says_why(attempt, "Training")

    each(models, learn)


def test_afterwards_the_hosts_own_sampling_is_as_before(pack: Any, microworld: Any, models: dict[str, Patched]):
    each(models, lambda own: _same(ksampler(pack, microworld, own.model, **own.few), own.plain))


def _same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.equal(one, other)
