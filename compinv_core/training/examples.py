"""From a user's images, masks and prompts to what is learnt from."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone import Family
from ..prompts.templates import CLOSE_UP, FAR_AWAY
from ..sentences import check_letters, quoted
from .images import DARK, off_centre, rescaled, training_images
from .request import TEMPLATES, Request

MAX_PROMPT = 10_000  # letters
WITH_ADAPTER = "learnt with"
"""In a concept's provenance: the way that also changed the model."""


@dataclass(frozen=True)
class Examples:
    """Of one concept.

    Attributes:
        images: (M, H, W, 4) in 0..1, the user's first, then what was made of them; the last channel is a mask.
        fitting: (M, P), indices of the prompts that fit each.
        prompts: with the placeholder written in.
        ordinary: the same with the class word in its place.
        count: of the user's own images.
        sizes: (H, W) of the user's own images.
    """

    images: Tensor
    fitting: Tensor
    prompts: list[str]
    ordinary: list[str]
    count: int
    sizes: list[tuple[int, int]]


def examples_of(request: Request, seed: int) -> Examples:
    """Raises ValueError: one sentence on an image, mask or prompt that cannot be used."""
    sizes = [(int(image.shape[0]), int(image.shape[1])) for batch in request.images for image in batch]
    masks = _masks(request, sizes)
    shifts = [off_centre(mask) for mask in masks]
    images = training_images(request.images, request.resolution, shifts)
    squares = _squares(request, masks, shifts, len(sizes))
    images = torch.cat([images, squares], dim=-1)
    templates = _templates(request, len(sizes))
    prompts = [filled(template, word_of(request)) for template in templates]
    ordinary = [filled(template, request.class_word) for template in templates]
    numbers = torch.arange(len(templates))
    own = numbers[:, None] if request.captions else numbers.expand(len(sizes), -1)
    groups, fitting = [images], [own]
    if request.rescale:
        generator = torch.Generator().manual_seed(seed)
        plain = prompts, ordinary
        for small, words in ((True, FAR_AWAY), (False, CLOSE_UP)):
            variants = rescaled(images, small, generator)
            shown = variants[..., 3].amax(dim=(1, 2)) > DARK  # a close-up may leave out what a mask shows
            groups.append(variants[shown])
            fitting.append((own + len(prompts))[shown])
            prompts, ordinary = (
                [*known, *(f"{prompt}, {words[i % len(words)]}" for i, prompt in enumerate(texts))]
                for known, texts in zip((prompts, ordinary), plain, strict=True)
            )
    if request.mirror:
        groups += [group.flip(2) for group in groups]
        fitting += fitting
    return Examples(
        torch.cat(groups), torch.cat(fitting), prompts=prompts, ordinary=ordinary, count=len(sizes), sizes=sizes
    )  # fmt: skip


def together(tables: Sequence[Tensor]) -> Tensor:
    """Several concepts' tables of fitting prompts (M, P) as one, the prompts numbered through; each stays as likely as it was."""
    width = math.lcm(*(table.shape[1] for table in tables))
    found: list[Tensor] = []
    first = 0
    for table in tables:
        found.append(table.repeat(1, width // table.shape[1]) + first)
        first += int(table.max()) + 1
    return torch.cat(found)


def word_of(request: Request) -> str:
    """The placeholder as training prompts write it."""
    after = f" {request.class_word}" if request.class_word_too else ""
    return f"embedding:{request.name}{after}"


def filled(template: str, word: str) -> str:
    """A prompt with `word` in place of {}, apart from what touches it, as ComfyUI reads embeddings.

    Raises:
        ValueError: not one {}, letters that touch it, half of a character, or too many letters.
    """
    check_letters(template, '"prompts"')
    if len(template) > MAX_PROMPT:
        raise ValueError(
            f'The prompt "{quoted(template)}" has {len(template)} letters; {MAX_PROMPT} or fewer are allowed.'
        )
    if (count := template.count("{}")) != 1:
        found = "has no place for the placeholder" if count == 0 else f"has {count} places for the placeholder"
        raise ValueError(f'The prompt "{quoted(template)}" {found}; write {{}} where it goes, once.')
    if re.search(r"\w\{\}|\{\}\w", template):
        raise ValueError(
            f'The prompt "{quoted(template)}" joins letters to the placeholder; put a space between them and {{}}.'
        )
    before, _, after = template.partition("{}")
    return f"{before.removesuffix('embedding:').rstrip()} {word} {after.lstrip()}".strip()


def notices_of(family: Family, request: Request, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Sentences on what a user may not expect: anchors of another class word, images that are not learnt whole, a resolution that
    makes a blurred word."""
    notices: list[str] = []
    anchors = request.anchors
    if anchors is not None and anchors.class_word.lower() != request.class_word.lower():
        notices.append(
            f'The anchors are for the class word "{anchors.class_word}", but training has "{request.class_word}"; '
            "use one for both, unless this is intended."
        )
    if request.start_from is not None and WITH_ADAPTER in request.start_from.provenance:
        notices.append(
            f'The concept "{request.start_from.name}" was learnt with an adapter; training continues from its embedding alone. Connect '
            "the model with that adapter, unless this is intended."
        )
    if count := sum(height != width for height, width in sizes):
        where = "around the mask" if request.masks else "in the middle"
        notices.append(f"{count} of {len(sizes)} images cropped to the largest square {where}.")
    if request.resolution < family.least_resolution:
        notices.append(
            f"{family.name} is made for 1024 pixels; at a resolution of {request.resolution} the embedding learns blurred images."
        )
    return notices


def _templates(request: Request, count: int) -> list[str]:
    templates = list(request.prompts or TEMPLATES[request.kind])
    if request.captions and len(templates) != count:
        raise ValueError(f'The input "captions" holds {len(templates)} captions for {count} images; give one each.')
    return templates


def _masks(request: Request, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(H, W) each, as large as the images, or none."""
    masks = [mask.detach().float().cpu().clamp(0, 1) for batch in request.masks for mask in batch]
    if masks and len(masks) != len(sizes):
        raise ValueError(f'The input "masks" holds {len(masks)} masks for {len(sizes)} images; give one each.')
    for number, (mask, size) in enumerate(zip(masks, sizes, strict=False), start=1):
        if mask.ndim != 2 or not mask.numel():
            raise ValueError(
                f'Mask {number} of "masks" has the shape {tuple(mask.shape)}; (height, width) is allowed, one value for each pixel.'
            )
        if not mask.isfinite().all():
            raise ValueError(f'Mask {number} of "masks" holds NaN or infinite values; numbers from 0 to 1 are allowed.')
        if mask.max() <= DARK:
            raise ValueError(f'Mask {number} of "masks" is black all over; paint white what is to be learnt.')
        if tuple(mask.shape) != size:
            raise ValueError(
                f'Mask {number} of "masks" has {mask.shape[1]} x {mask.shape[0]} pixels and its image has '
                f"{size[1]} x {size[0]}; the same size is needed."
            )
    return masks


def _squares(request: Request, masks: Sequence[Tensor], shifts: Sequence[tuple[int, int]], count: int) -> Tensor:
    """What of the masks lies on the squares that are learnt, (N, H, W, 1); ones where there are none."""
    side = request.resolution
    if not masks:
        return torch.ones(count, side, side, 1)
    squares = training_images([mask[None, ..., None] for mask in masks], side, shifts)[..., :1]
    for number, square in enumerate(squares, start=1):
        if square.max() <= DARK:
            raise ValueError(
                f'Mask {number} of "masks" is black on the square that its image is cropped to; crop the image '
                "so that the concept fits into a square and is not too small."
            )
    return squares


def in_latent_cells(masks: Tensor, stride: int) -> Tensor:
    """Masks (N, H, W) on the cells of a latent: (N, 1, h, w)."""
    return F.interpolate(masks.unsqueeze(1), scale_factor=1 / stride, mode="area")
