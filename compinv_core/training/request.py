"""What to learn, and from what: the record that a node, the command line and a benchmark fill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Literal

from torch import Tensor

from ..anchors import AnchorSet
from ..concept import Concept
from ..prompts.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from .priors import DCO_BETA, ClassImages, DirectConsistency, NoPrior, Prior
from .recipe import PAPER, PAPER_DREAMBOOTH, PAPER_KEYS_AND_VALUES, Recipe
from .ways.fine_tune import KINDS, What

TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
LIMITS = {
    "resolution": {"min": 64, "max": 2048},
    "steps": {"min": 1, "max": 100_000},
    "batch": {"min": 1, "max": 64},
    "vectors": {"min": 1, "max": 16},
    "learning_rate": {"min": 0.0001, "max": 10.0},
    "anchor_weight": {"min": 0.0, "max": 1.0},
    "seed": {"min": 0, "max": 0xFFFFFFFFFFFFFFFF},
}
"""Of what a user sets, the same on the node and in a file; the resolution is a multiple of 8, too."""
REFERENCE_VECTORS = 3
WHAT = tuple(KINDS)
PriorKind = Literal["none", "DCO", "class images"]


@dataclass(frozen=True)
class Request:
    """A concept to learn.

    Attributes:
        name: the placeholder, typed as `embedding:name`.
        class_word: the ordinary word that the search starts from.
        images: batches (B, H, W, C) in 0..1.
        masks: batches (B, H, W) in 0..1 as many as images, or empty; nothing is learnt where a mask is 0.
        vectors: how many vectors the placeholder gets.
        resolution: pixels a side.
        kind: "object" or "style", which templates the prompts come from.
        mirror: also learn from the mirror images.
        rescale: also learn from the images far away and close up, with prompts that say so.
        prompts: in place of the kind's templates, each with {} where the placeholder goes.
        captions: whether the prompts are captions, one for each image.
        preview_prompts: what is looked at while it is learnt, each with {} where the placeholder goes; none for the concept alone and
            beside another thing.
        ignore_background: of objects without masks, learn next to nothing where the model's own attention to the class word
            does not see them.
        class_word_too: whether prompts write the class word behind the placeholder.
        start_from: a concept to go on with, whose vectors take the place of the class word's; it says how many there are.
        start_word: the ordinary word whose vectors the search starts from; "" is the class word.
        anchors: ordinary words that regularise the placeholder; None is plain textual inversion.
    """

    name: str
    class_word: str
    images: Sequence[Tensor]
    masks: Sequence[Tensor] = ()
    vectors: int = 3
    resolution: int = 512
    kind: str = "object"
    mirror: bool = True
    rescale: bool = False
    prompts: Sequence[str] = ()
    captions: bool = False
    preview_prompts: Sequence[str] = ()
    ignore_background: bool = False
    class_word_too: bool = False
    start_from: Concept | None = None
    start_word: str = ""
    anchors: AnchorSet | None = None


def as_paper(request: Request, recipe: Recipe, preset: Recipe = PAPER) -> tuple[Request, Recipe]:
    """The same concept, learnt as the reference implementation does: its recipe, three vectors (one beside a change of the model),
    mirrored images of which the background is learnt as well, the class word behind the placeholder, and as the one anchor, if
    there are anchors.
    """
    asked = replace(
        request,
        vectors=REFERENCE_VECTORS if preset is PAPER else 1,
        mirror=True,
        ignore_background=False,
        class_word_too=True,
        anchors=request.anchors and AnchorSet(request.class_word, (request.class_word,), (1.0,)),
    )
    own = {name: getattr(recipe, name) for name in ("seed", "anchor_schedule", "noise_levels")}
    return asked, replace(preset, **own)


@dataclass(frozen=True)
class FineTuneRequest:
    """What of the model is learnt beside the word, and what keeps it from forgetting its class.

    Attributes:
        what: "keys and values", "attention" or "whole UNet".
        rank: of the changes; 0 learns each as large as its weight.
        prior: "none", "DCO" or "class images".
        prior_images: of the class, batches (B, H, W, C) in 0..1; without any the model draws them.
        prior_count: how many it draws.
        prior_weight: of the loss on class images; of DCO, a factor of its beta, where 10 is the paper's. 0 is no prior.
    """

    what: What = "keys and values"
    rank: int = 0
    prior: PriorKind = "DCO"
    prior_images: Sequence[Tensor] | None = None
    prior_count: int = 40
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.prior_images is not None and self.prior != "class images":
            raise ValueError(
                f'The input "prior_images" is connected, but "prior" is "{self.prior}"; choose class images, or disconnect it.'
            )
        if self.prior_images is not None and not any(len(batch) for batch in self.prior_images):
            raise ValueError(
                'The input "prior_images" holds no image; connect images of ordinary things of the class, or nothing: then the '
                "model samples them."
            )
        if self.prior == "class images" and self.prior_images is None and self.prior_count < 1:
            raise ValueError(f"prior_count is {self.prior_count}; 1 or more images of the class are needed.")

    def made_prior(self) -> Prior:
        if self.prior == "none" or self.prior_weight == 0:
            return NoPrior()
        if self.prior == "DCO":
            return DirectConsistency(DCO_BETA * self.prior_weight)
        return ClassImages(self.prior_weight)


RARE_WORDS = ("ktn", "pll", "ucd")  # tokens that mean next to nothing, from which the reference's placeholders start
PAPER_CLASS_IMAGES = 200


def as_paper_fine_tune(
    requests: Sequence[Request], recipe: Recipe, fine_tune: FineTuneRequest, known: Callable[[str], bool]
) -> tuple[list[Request], Recipe, FineTuneRequest]:
    """Concepts with a change of the model, learnt as the reference implementation does: its recipes of Custom Diffusion (keys and
    values, each in full) and DreamBooth, with images of the class. Concepts learnt together take half the batch.

    What differs, on purpose: its DreamBooth has no LoRA; where one is asked for, its settings are kept for it. Its images of the
    class are photographs from the web; ours are the model's own, or given. Where a text encoder does not know its rare words,
    and of a fourth concept, the placeholder starts from the class word.
    """
    preset = PAPER_KEYS_AND_VALUES if fine_tune.what == "keys and values" else PAPER_DREAMBOOTH
    if len(requests) > 1 and preset is PAPER_KEYS_AND_VALUES:
        rate = preset.learning_rate / 2
        preset = replace(preset, batch=1, learning_rate=rate, weights_learning_rate=rate)
    pairs = [as_paper(request, recipe, preset) for request in requests]
    rescale = fine_tune.what == "keys and values"  # its augmentation is on by default
    asked = [
        replace(request, rescale=rescale, start_word=rare if rare and known(rare) else "")
        for (request, _), rare in zip(pairs, chain(RARE_WORDS, repeat("")), strict=False)
    ]
    rank = fine_tune.rank if fine_tune.what == "attention" else 0
    prior = {"prior": "class images", "prior_count": PAPER_CLASS_IMAGES, "prior_weight": 1.0}
    return asked, pairs[0][1], replace(fine_tune, rank=rank, **prior)
