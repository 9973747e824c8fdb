"""Merged adapters of keys and values on the micro world: what each concept keeps, what ordinary captions lose, refusals."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fine_tunes import fine_tune, pictures_of
from torch import Tensor

CONCEPTS = {"mittens": "cat", "zippy": "car"}
OWN = ("{}", "photo of a {}")  # the prompts of a concept that a merge is given
OTHERS = ("a photo of a {} on grass", "a drawing of a {}")  # what it is not
ORDINARY = [
    "a photo of a cup",
    "a house and a kite",
    "a photo of a cat on grass",
    "a painting of a chair",
    "a car beside a cup",
]


@dataclass(frozen=True)
class Learnt:
    """Two concepts, each with its own adapter, and the merged one."""

    concepts: list[Any]
    adapters: list[dict[str, Tensor]]
    merged: dict[str, Tensor]


@pytest.fixture(scope="module")
def learnt(pack: Any, microworld: Any) -> Learnt:
    model, clip, _ = microworld
    settings = {"steps": 30, "batch": 4}
    pairs = [
        fine_tune(pack, microworld, pictures_of(name), placeholder=name, class_word=word, **settings)[:2]
        for name, word in CONCEPTS.items()
    ]
    concepts, adapters = (list(values) for values in zip(*pairs, strict=True))
    return Learnt(concepts, adapters, merge(pack, model, clip, concepts, adapters)[0])


def merge(pack: Any, model: Any, clip: Any, concepts: list[Any], adapters: list[Any]) -> tuple[Any, ...]:
    inputs: dict[str, Any] = {}
    for number, (concept, adapter) in enumerate(zip(concepts, adapters, strict=True), start=1):
        inputs |= {f"concept_{number}": concept, f"adapter_{number}": adapter}
    with torch.inference_mode():
        return pack.run("CompInvMergeAdapters", model=model, clip=clip, **inputs)


def predicted(microworld: Any, lora: dict[str, Tensor] | None, texts: list[str], concepts: list[Any]) -> Tensor:
    """Under each text, of the same noise."""
    import comfy.sd
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    model, clip, _ = microworld
    with torch.inference_mode():
        tuned = model if lora is None else comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
        backbone = ComfyBackbone(tuned, clip)
        backbone.load()
        encoded = [backbone.encode_text(text, concepts) for text in texts]
        prompts = Encoded(torch.cat([e.context for e in encoded]), torch.cat([e.pooled for e in encoded]))
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(len(texts), -1, -1, -1)
        return backbone.predict(noise, torch.tensor([600] * len(texts)), prompts).clone()


def missed(microworld: Any, learnt: Learnt, prompts: tuple[str, ...]) -> dict[str, list[float]]:
    """Of what a concept's own adapter changes of a prediction, what others miss, for each concept; 1 is as far as without any."""
    added = {key: one + learnt.adapters[1][key] for key, one in learnt.adapters[0].items()}
    found: dict[str, list[float]] = {"merged": [], "the other's": [], "both added": []}
    for number, (name, word) in enumerate(CONCEPTS.items()):
        texts = [prompt.format(f"embedding:{name} {word}") for prompt in prompts]
        own, plain = (predicted(microworld, lora, texts, learnt.concepts) for lora in (learnt.adapters[number], None))
        for ratios, lora in zip(found.values(), (learnt.merged, learnt.adapters[1 - number], added), strict=True):
            ratios.append(
                ((predicted(microworld, lora, texts, learnt.concepts) - own).norm() / (own - plain).norm()).item()
            )
    return found


def test_each_concepts_prompts_give_nearly_what_they_gave_with_its_own_adapter(microworld: Any, learnt: Learnt):
    """Measured: of the prompts that a merge is given it misses 0.15 and 0.19 of the change, of others 0.33 and 0.34."""
    for prompts, most in ((OWN, 0.25), (OTHERS, 0.5)):
        found = missed(microworld, learnt, prompts)
        assert max(found["merged"]) < most < min(*found["the other's"], *found["both added"]), (prompts, found)


def test_ordinary_captions_are_moved_less_than_by_a_single_adapter(microworld: Any, learnt: Learnt):
    plain = predicted(microworld, None, ORDINARY, [])
    moved = [
        (predicted(microworld, lora, ORDINARY, []) - plain).norm().item() for lora in (learnt.merged, *learnt.adapters)
    ]
    assert moved[0] < 0.9 * min(moved[1:]), moved


def test_a_merged_file_in_half_precision_gives_nearly_the_same(microworld: Any, learnt: Learnt):
    """The closed form has large terms that cancel, which its ridge keeps small enough to be rounded."""
    half = Learnt(learnt.concepts, learnt.adapters, {key: tensor.half() for key, tensor in learnt.merged.items()})
    found = missed(microworld, half, OWN)
    assert max(found["merged"]) < 0.3, found


def test_the_node_gives_the_model_with_the_merged_adapter(pack: Any, microworld: Any, learnt: Learnt):
    model, clip, vae = microworld
    before = predicted(microworld, None, ORDINARY, [])
    merged, tuned = merge(pack, model, clip, learnt.concepts, learnt.adapters)
    assert all(torch.equal(merged[key], tensor) for key, tensor in learnt.merged.items())  # the same captions each time
    expected = predicted(microworld, merged, ORDINARY, [])
    assert torch.equal(predicted((tuned, clip, vae), None, ORDINARY, []), expected) and not torch.equal(
        expected, before
    )
    assert torch.equal(predicted(microworld, None, ORDINARY, []), before)


def refused(pack: Any, microworld: Any, sentence: str, concepts: list[Any], adapters: list[Any]) -> None:
    with pytest.raises(ValueError, match=sentence):
        merge(pack, microworld[0], microworld[1], concepts, adapters)


def test_what_cannot_be_merged_is_refused(pack: Any, microworld: Any, learnt: Learnt):
    (first, second), (one, two) = learnt.concepts, learnt.adapters
    twice = r"The same concept or adapter is connected twice \(mittens, .*\); each can be merged once"
    refused(pack, microworld, twice, [first, first], [one, two])
    refused(pack, microworld, twice, [first, second], [one, one])
    refused(pack, microworld, "1 concept with an adapter is connected; connect two to four", [first], [one])
    refused(pack, microworld, 'The input "adapter_2" is not connected', [first, second], [one, None])
    refused(pack, microworld, 'The input "concept_2" is not connected', [first, None], [one, two])
    wide = {key: torch.zeros(len(tensor), 768) for key, tensor in two.items()}
    shape = re.escape("the shape (")
    refused(
        pack,
        microworld,
        f'"zippy" is for another family of models: its change of ".*" has {shape}',
        [first, second],
        [one, wide],
    )
    foreign = {f"lora_unet_output_blocks_99_{i}.diff": tensor for i, tensor in enumerate(two.values())}
    refused(pack, microworld, "changes no weight of this model", [first, second], [one, foreign])
    more = {**two, **{key.replace("to_k", "to_q"): t for key, t in two.items() if "to_k" in key}}
    refused(
        pack,
        microworld,
        'changes ".*to_q.weight"; only cross-attention keys and values can be merged',
        [first, second],
        [one, more],
    )


def test_a_concept_of_another_family_is_refused(pack: Any, microworld: Any, learnt: Learnt):
    from compositional_inversion.compinv_core.concept import Concept

    wide = Concept("other", {"clip_l": torch.ones(1, 768)}, "car")
    refused(
        pack,
        microworld,
        'The concept "other" is for another family of models',
        [learnt.concepts[0], wide],
        learnt.adapters,
    )
