"""Training on ComfyUI's MODEL, CLIP and VAE: schedule, latents, the frozen UNet's prediction, and the whole run."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from comfy import model_base, model_management, model_sampling
from torch import Tensor

from .. import __version__
from ..anchors import AnchorSet, sparsemax
from ..concept import Concept, write_unfinished
from ..prompts import CLOSE_UP, FAR_AWAY, OBJECT_TEMPLATES, STYLE_TEMPLATES
from ..report import standing
from ..training.loop import REFERENCE, Checkpoint, Progress, Pull, Recipe, Task, Vectors, Workers, train
from ..training.objective import Encoded, NoiseSchedule, sample
from ..training.pictures import DARK, off_centre, rescaled, training_pictures
from ..training.runs import fingerprint, load_run, save_run
from . import text_encoder
from .foreground import attention_to, find_foreground
from .model import HEADROOM, fingerprint_of, fitting, frozen_weights, load, predictor, recomputed, staying, weighed

log = logging.getLogger(__name__)
TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}
PREVIEW_STEPS, PREVIEW_CFG = 12, 4.0
GLIMPSES = (0.25, 0.5, 0.75)  # of the schedule, where a preview's attention is looked at
SDXL_NEEDS = 768  # pixels a side: below, it draws badly
RECOMPUTED_SHARE = 0.25  # of what a forward keeps, where blocks are computed twice
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
SUPPORTED = "SD 1.x, SD 2.x and SDXL checkpoints for text to image are supported"


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule and prediction target of a loaded MODEL.

    Raises:
        ValueError: an architecture that is not of the kind of SD 1.x, SD 2.x or SDXL.
    """
    sampling = model.get_model_object("model_sampling")
    sigmas = getattr(sampling, "sigmas", None)
    unet = model.model.diffusion_model
    supported = (
        isinstance(sampling, model_sampling.ModelSamplingDiscrete)
        and isinstance(sampling, model_sampling.EPS)
        and not isinstance(sampling, (model_sampling.X0, model_sampling.ModelSamplingDiscreteEDM))
    )
    if sigmas is None or not supported or not hasattr(unet, "input_blocks") or unet.in_channels != 4:
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__} that training does not know; {SUPPORTED}.'
        )
    if model.model.adm_channels and not isinstance(model.model, model_base.SDXL):
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__}, conditioned on more than text and size; {SUPPORTED}.'
        )
    alphas = 1 / (sigmas.float().cpu().clone() ** 2 + 1)
    prediction = "v" if isinstance(sampling, model_sampling.V_PREDICTION) else "epsilon"
    return NoiseSchedule(alphas.to(model.load_device), prediction)


def context_width(model: Any) -> int:
    """The width of the text that a MODEL's cross-attention reads."""
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_k"):
            return int(module.weight.shape[1])
    raise ValueError(
        f'The input "model" is a {type(model.model).__name__} without cross-attention to text; '
        "SD 1.x, SD 2.x and SDXL checkpoints are supported."
    )


def encode_pictures(model: Any, vae: Any, pictures: Tensor) -> Tensor:
    """(N, H, W, 3) in 0..1 -> (N, C, h, w) as the UNet sees them, on its device."""
    encoded = torch.cat([vae.encode(picture[None]) for picture in pictures])
    return model.model.process_latent_in(encoded.float()).to(model.load_device).clone()


def decode_picture(model: Any, vae: Any, latents: Tensor) -> Tensor:
    """(B, C, h, w) as the UNet sees them -> (B, H, W, 3) in 0..1."""
    return vae.decode(model.model.process_latent_out(latents)).clamp(0, 1)


@dataclass(frozen=True)
class Request:
    """What to learn, and from what.

    Attributes:
        name: the placeholder, typed as `embedding:name`.
        class_word: the ordinary word that the search starts from.
        vectors: how many vectors the placeholder gets.
        images: batches (B, H, W, C) in 0..1.
        masks: batches (B, H, W) in 0..1 as many as pictures, or empty; nothing is learnt where a mask is 0.
        resolution: pixels a side.
        kind: "object" or "style", which templates the prompts come from.
        mirror: also learn from the mirror images.
        rescale: also learn from the pictures far away and close up, with prompts that say so.
        prompts: in place of the kind's templates, each with {} where the word goes.
        captions: whether the prompts are captions, one for each picture.
        ignore_background: of objects without masks, learn next to nothing where the model's own attention to the class word
            does not see them.
        class_word_too: whether prompts write the class word behind the new one.
        start_from: a concept to go on with, whose vectors take the place of the class word's; it says how many there are.
    """

    name: str
    class_word: str
    vectors: int
    images: Sequence[Tensor]
    masks: Sequence[Tensor]
    resolution: int
    kind: str
    mirror: bool
    rescale: bool = False
    prompts: Sequence[str] = ()
    captions: bool = False
    ignore_background: bool = False
    class_word_too: bool = False
    start_from: Concept | None = None


def as_reference(
    request: Request, recipe: Recipe, anchors: AnchorSet | None
) -> tuple[Request, Recipe, AnchorSet | None]:
    """The same word, learnt as the reference implementation does: its recipe, three vectors, mirrored pictures of which the
    background is learnt as well, the class word behind the new one, and as the one anchor, if there are anchors.
    """
    asked = replace(request, vectors=3, mirror=True, ignore_background=False, class_word_too=True)
    settings = replace(REFERENCE, seed=recipe.seed, growing=recipe.growing, noise_levels=recipe.noise_levels)
    return asked, settings, anchors and AnchorSet(request.class_word, (request.class_word,), (1.0,))


@dataclass(frozen=True)
class Lessons:
    """What a word is learnt from; see `Task`."""

    latents: Tensor
    prompts: Tensor
    masks: Tensor | None = None
    teach: Callable[[list[int]], Encoded] | None = None


class Learning(ABC):
    """One word being learnt for a MODEL and CLIP, which are left as they were, also after an error.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    prepared: text_encoder.Prepared
    reached: Checkpoint | None = None  # the last sound state of its run

    def __init__(
        self,
        model: Any,
        clip: Any,
        placeholder: str,
        class_word: str,
        start: Concept | int,
        anchors: AnchorSet | None,
        recipe: Recipe,
    ):
        """`start` is a concept to go on with, or how many vectors begin at the class word."""
        self.model, self.clip = model, clip = staying(model), text_encoder.staying_clip(clip)
        self.placeholder, self.class_word, self.anchors, self.recipe = placeholder, class_word, anchors, recipe
        if "model_function_wrapper" in model.model_options:
            log.warning('Another node wraps what samplers call of the input "model"; training does without it.')
        self.encoders = text_encoder.text_encoders(clip)
        self.schedule = noise_schedule(model)
        self.vocabularies = {key: text_encoder.vocabulary(clip, key) for key in self.encoders}
        text_width = sum(vocabulary.vectors.shape[1] for vocabulary in self.vocabularies.values())
        if context_width(model) != text_width:
            raise ValueError(
                f"MODEL and CLIP do not belong together: the model reads text {context_width(model)} numbers wide, "
                f"the text encoder writes {text_width}; take both from the same checkpoint."
            )
        words = {key: vocabulary.vector(class_word, '"class_word"') for key, vocabulary in self.vocabularies.items()}
        if isinstance(start, int):
            self.start = {key: word.repeat(start, 1) for key, word in words.items()}
        else:
            text_encoder.check_width(clip, start)
            self.start = {key: start.vectors[key].float().cpu().clone() for key in words}
        self.pulls = None
        if anchors is not None:
            self.pulls = {key: Pull(anchors.vectors(v), v.spread) for key, v in self.vocabularies.items()}

    @abstractmethod
    def lessons(self) -> Lessons:
        """Made when the run begins, on the model's device, in inference mode."""

    @abstractmethod
    def identity(self) -> tuple[object, list[Tensor]]:
        """Settings and tensors that tell this run from others, besides what every run has."""

    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """What the word comes from."""

    @property
    def counts(self) -> dict[str, int]:
        """How many vectors the word has, by text encoder."""
        return {key: len(vectors) for key, vectors in self.start.items()}

    @cached_property
    def name(self) -> str:
        """Of the run: the same for the same model, material, settings and anchors."""
        settings, given = self.identity()
        given += [*self.start.values(), self.schedule.alphas_cumprod]
        given += [pull.anchors for pull in (self.pulls or {}).values()]
        pulling = self.anchors and (self.anchors.weights, self.anchors.learnt)
        version = __version__  # another may learn otherwise
        every = (self.placeholder, fingerprint_of(self.model), self.schedule.prediction, self.recipe, pulling, version)
        return f"{self.placeholder}-{fingerprint((settings, every), given)}"

    def run(
        self,
        runs: Path,
        interrupted: Callable[[], bool],
        on_report: Callable[[Progress], None],
        workers: Workers | None = None,
    ) -> Checkpoint:
        """Train. MODEL and CLIP are left as they were, also after an error.

        Args:
            runs: a folder where the run is kept until its word is safe, see `forget`. What was interrupted or killed goes
                on from there, bit for bit as if it had not been.
            interrupted: asked after every step; True ends the run there, as the host's own interruption does at any time.
            on_report: see `train`.
            workers: processes that learn this word together.

        Returns:
            The state at the end; `concept` makes a concept of its vectors.

        Raises:
            MemoryError: one sentence on what to lower.
        """
        try:
            return self._run(runs / f"{self.name}.pt", interrupted, on_report, workers or Workers())
        except model_management.OOM_EXCEPTION as error:
            raise MemoryError(
                f'Training "{self.placeholder}" ran out of memory, even with one picture at a time; lower the resolution, '
                "or make room for it: with the same settings it goes on where it was."
            ) from error

    def _run(
        self, file: Path, interrupted: Callable[[], bool], on_report: Callable[[Progress], None], workers: Workers
    ) -> Checkpoint:
        with torch.inference_mode():
            made = self.lessons()
        with torch.inference_mode(False), torch.enable_grad():
            masks = None if made.masks is None else made.masks.clone()
            lessons = replace(made, latents=made.latents.clone(), masks=masks)
            self.prepared = self.prepared.on(self.clip.patcher.load_device)
            with ExitStack() as ready:
                ready.enter_context(self._ready())
                probe, once, kept = self._probe(lessons.latents)
                resume: Checkpoint | None = workers.told(load_run(file, probe) if workers.rank == 0 else None)
                at_once, twice = self._fitting(once, kept)
                self.reached = resume
                if resume is not None:
                    at_once = min(at_once, resume.at_once)
                    log.info('The training of "%s" goes on after step %s.', self.placeholder, resume.step)

                def make_ready() -> None:
                    """A preview may have taken the memory."""
                    ready.close()
                    a_picture = RECOMPUTED_SHARE * kept if twice else kept
                    ready.enter_context(self._ready(twice, HEADROOM * (once + at_once * a_picture)))

                def relieve(tried: int) -> int:
                    nonlocal at_once, twice
                    if tried == 1 and twice:
                        return 0
                    at_once, twice = max(1, tried // 2), twice or tried == 1
                    log.info(
                        "Memory ran out; from now on %s of a batch go through the model at once%s.",
                        at_once,
                        ", and its blocks are computed twice" if twice else "",
                    )
                    make_ready()
                    return at_once

                def report(progress: Progress) -> None:
                    self.reached = progress.checkpoint
                    more = progress.step < self.recipe.steps  # what goes on must have a step to take
                    try:
                        if more and workers.rank == 0:
                            save_run(progress.checkpoint, probe, file)
                    except OSError as error:  # a full disk must not cost what is learnt
                        log.warning("The run cannot be kept in %s: %s.", file, error)
                    ready.close()  # or a preview that evicts the model would take the swapped weights for its own
                    on_report(progress)
                    if more:
                        make_ready()

                make_ready()
                scale = {key: v.vectors.square().mean().sqrt().item() for key, v in self.vocabularies.items()}
                pulls = {k: Pull(p.anchors.to(lessons.latents.device), p.spread) for k, p in (self.pulls or {}).items()}
                task = Task(
                    lessons.latents,
                    lessons.prompts,
                    lambda indices, vectors: text_encoder.encode_batch(self.clip, self.prepared, indices, vectors),
                    predictor(self.model),
                    self.schedule,
                    self.recipe,
                    pulls,
                    torch.tensor(self.anchors.weights if self.anchors else (1.0,)),
                    bool(self.anchors and self.anchors.learnt),
                    lessons.masks,
                    lessons.teach,
                    at_once,
                    workers,
                    relieve,
                )
                cancelled = (model_management.InterruptProcessingException,)
                end = train(self.start, scale, task, resume, interrupted, report, cancelled)
        return end

    def forget(self, runs: Path) -> None:
        """Give up the run in this folder, whose word is safe now."""
        (runs / f"{self.name}.pt").unlink(missing_ok=True)

    def keep(self, folder: Path) -> str:
        """Write the word of a run that did not end well into a folder, beside those of earlier ones.

        Returns:
            When it ended, and where the word is.
        """
        if self.reached is None or not self.reached.step:
            return "before anything was learnt."
        when = f"after step {self.reached.step}; the word as it was then"
        try:
            return f"{when} is in {write_unfinished(self.concept(self.reached), folder)}."
        except OSError as error:
            return f"{when} could not be kept: {error}"

    @contextmanager
    def _ready(self, twice: bool = False, room: float = 0) -> Generator[None]:
        """For its time, MODEL and CLIP are on their devices with so much room beside them, and a backward goes through them."""
        load(self.model, self.clip, room)
        unet = self.model.model.diffusion_model
        with (
            frozen_weights(unet, *self.encoders.values()),
            text_encoder.differentiable(self.clip),
            recomputed(unet) if twice else nullcontext(),
        ):
            yield

    def _probe(self, latents: Tensor) -> tuple[Tensor, int, int]:
        """What the frozen model says to the first picture and prompt, and the bytes kept for a backward: once, and a picture.

        By its answer a kept run knows its model again. Most of what the text encoder keeps are its own weights, cast from
        half precision, however many prompts it reads.
        """
        start = {key: value.clone().requires_grad_() for key, value in self.start.items()}
        middle = torch.tensor([len(self.schedule.alphas_cumprod) // 2], device=latents.device)
        with weighed(self.model.model.diffusion_model, *self.encoders.values()) as kept:
            prompt = text_encoder.encode_batch(self.clip, self.prepared, [0], start)
            once = kept()
            answer = predictor(self.model)(latents[:1], middle, prompt)
        return answer.detach().float(), once, kept() - once

    def _fitting(self, once: int, kept: int) -> tuple[int, bool]:
        """How many pictures of a batch go through the model at once where so many bytes are kept, once and a picture, and
        whether its blocks must be computed twice; said in one line."""
        batch, device = self.recipe.batch, self.model.load_device
        free = model_management.get_free_memory(device) - model_management.extra_reserved_memory()
        room = max(0.0, free / HEADROOM - once)
        fit = int(room / kept)
        twice = fit == 0
        at_once = max(1, min(batch, int(room / (RECOMPUTED_SHARE * kept)) if twice else fit))
        log.info(
            "Training keeps %.1f GB and %.1f GB for a picture, %.1f GB are free%s%s.",
            once / 1e9,
            kept / 1e9,
            free / 1e9,
            f": {at_once} of the batch's {batch} go through the model at once" if at_once < batch else "",
            "; its blocks are computed twice, which takes a quarter of it and four tenths more time" if twice else "",
        )
        return at_once, twice

    def concept(self, end: Checkpoint, best: bool = False) -> Concept:
        """What a run has learnt, with what made it; with `best`, the word of its best check."""
        provenance = {
            "steps": str(end.step),
            "seed": str(self.recipe.seed),
            **self.provenance(),
            "run": self.name,
            "model": fingerprint_of(self.model),
            "version": __version__,
        }
        if self.anchors is not None:
            provenance["anchors"] = self.pulling(end)
        clones = {key: value.detach().cpu().clone() for key, value in (end.best if best else end.vectors).items()}
        return Concept(self.placeholder, clones, self.class_word, provenance)

    def pulling(self, end: Checkpoint) -> str:
        """The anchors that pull, the strongest first, with their weights."""
        if self.anchors is None:
            return "none"
        pairs = sorted(zip(sparsemax(end.scores).tolist(), self.anchors.words, strict=True), reverse=True)
        return ", ".join(f"{word} {weight:.2f}" for weight, word in pairs if weight > 0)

    def describe(self, vectors: Vectors) -> str:
        """Where a word lies among the ordinary ones: the nearest of them, its vectors' length, and how far out they are."""
        key, vocabulary = next(iter(self.vocabularies.items()))
        where = standing(vectors[key], vocabulary, 3)
        near = ", ".join(f"{word} {similarity:.2f}" for word, similarity in where.nearest)
        return f"nearest {near}; length {where.length:.1f} words; further out than {where.percentile:.0f} % of words"


def filled(template: str, word: str) -> str:
    """A prompt with the placeholder as `word` in place of {}, apart from what touches it, as ComfyUI reads embeddings.

    Raises:
        ValueError: not one {}, or letters that touch it.
    """
    if (count := template.count("{}")) != 1:
        found = "has no place for the new word" if count == 0 else f"has {count} places for the new word"
        raise ValueError(f'The prompt "{template}" {found}; write {{}} where it goes, once.')
    if re.search(r"\w\{\}|\{\}\w", template):
        raise ValueError(f'The prompt "{template}" joins letters to the new word; put a space between them and {{}}.')
    return re.sub(r"\s*(embedding:)?\{\}\s*", lambda _: f" {word} ", template).strip()


def _notices(
    model: Any, request: Request, sizes: Sequence[Sequence[int]], anchors: AnchorSet | None = None
) -> list[str]:
    """Sentences on what a user may not expect: pictures (H, W) that are not learnt whole, a resolution that makes a blurred word,
    anchors of another class word."""
    notices: list[str] = []
    if anchors is not None and anchors.class_word.lower() != request.class_word.lower():
        notices.append(
            f'The anchors are for the class word "{anchors.class_word}", but training starts at "{request.class_word}"; '
            "give Anchor Select and Train the same one, unless this is meant."
        )
    if count := sum(height != width for height, width in sizes):
        where = "around what the mask shows" if request.masks else "in the middle"
        notices.append(f"{count} of {len(sizes)} pictures cropped to the largest square {where}.")
    if isinstance(model.model, model_base.SDXL) and request.resolution < SDXL_NEEDS:
        notices.append(f"SDXL was made for 1024 pixels; its words are blurred at a resolution of {request.resolution}.")
    return notices


@dataclass(frozen=True)
class Preview:
    """What a word gives while it is learnt.

    Attributes:
        pictures: (2, H, W, 3) in 0..1, of it alone and beside an ordinary thing.
        dominance: how much of the attention of both it takes there, over what its class word takes in its place; a glimpse of
            Concept Report's index. None for styles.
    """

    pictures: Tensor
    dominance: float | None


class Training(Learning):
    """A concept being learnt from pictures. Everything that can be refused is refused when it is made, before the first step.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, request: Request, anchors: AnchorSet | None, recipe: Recipe):
        with torch.inference_mode(False):
            start = request.vectors if request.start_from is None else request.start_from
            super().__init__(model, clip, request.name, request.class_word, start, anchors, recipe)
            self.vae, self.request = vae, request
            sizes = [picture.shape[:2] for batch in request.images for picture in batch]
            self.count = len(sizes)
            self.notices = _notices(model, request, sizes, anchors)
            for notice in self.notices:
                log.info(notice)
            masks = self._masks(sizes)
            shifts = [off_centre(mask) for mask in masks]
            pictures = training_pictures(request.images, request.resolution, shifts)
            self.pictures, self.prompts, prompts = self._examples(
                torch.cat([pictures, self._squares(masks, shifts)], dim=-1)
            )
            look = TEMPLATES[request.kind][0].format(self._word())
            self.companion = self._companion()
            self.looks = [look, f"{look} and a {self.companion}"]  # of previews, never learnt from
            self.prepared = text_encoder.prepare(self.clip, [*prompts, *self.looks], request.name, self.counts)
            self.foreground: Tensor | None = None

    def _companion(self) -> str:
        """An ordinary word to preview the concept beside."""
        known = next(iter(self.vocabularies.values()))
        taken = (self.request.class_word, self.request.name)  # "embedding:car and a car" could not be told apart
        return next((w for w in ("car", "cat", "cup") if w not in taken and w in known), self.request.class_word)

    def _word(self) -> str:
        """The placeholder as training prompts write it."""
        after = f" {self.request.class_word}" if self.request.class_word_too else ""
        return f"embedding:{self.request.name}{after}"

    def _masks(self, sizes: Sequence[torch.Size]) -> list[Tensor]:
        """(H, W) each, as large as the pictures, or none."""
        masks = [mask.detach().float().cpu().clamp(0, 1) for batch in self.request.masks for mask in batch]
        if masks and len(masks) != self.count:
            raise ValueError(f'The input "masks" holds {len(masks)} masks for {self.count} pictures; give one each.')
        for number, (mask, size) in enumerate(zip(masks, sizes, strict=False), start=1):
            if not mask.isfinite().all():
                raise ValueError(
                    f'Mask {number} of "masks" holds NaN or infinite values; numbers from 0 to 1 are allowed.'
                )
            if mask.max() <= DARK:
                raise ValueError(f'Mask {number} of "masks" is black all over; what is to be learnt must be white.')
            if mask.shape != size:
                raise ValueError(
                    f'Mask {number} of "masks" has {mask.shape[1]} x {mask.shape[0]} pixels and its picture has '
                    f"{size[1]} x {size[0]}; the same size is needed."
                )
        return masks

    def _squares(self, masks: Sequence[Tensor], shifts: Sequence[tuple[int, int]]) -> Tensor:
        """What of the masks lies on the squares that are learnt, (N, H, W, 1); ones where there are none."""
        side = self.request.resolution
        if not masks:
            return torch.ones(self.count, side, side, 1)
        squares = training_pictures([mask[None, ..., None] for mask in masks], side, shifts)[..., :1]
        for number, square in enumerate(squares, start=1):
            if square.max() <= DARK:
                raise ValueError(
                    f'Mask {number} of "masks" is black on the square that is learnt of its picture; what is to be learnt '
                    "must fit into a square and not be too small, so crop the picture to it."
                )
        return squares

    def _examples(self, pictures: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """What is learnt from, of pictures with their masks (N, H, W, 4): all variants of them (M, H, W, 4), the prompts
        (M, P) that fit each, and these prompts."""
        request = self.request
        templates = list(request.prompts or TEMPLATES[request.kind])
        if request.captions and len(templates) != self.count:
            raise ValueError(
                f'The input "captions" holds {len(templates)} captions for {self.count} pictures; give one each.'
            )
        plain = [filled(template, self._word()) for template in templates]
        numbers = torch.arange(len(templates))
        own = numbers[:, None] if request.captions else numbers.expand(self.count, -1)
        groups, fitting, prompts = [pictures], [own], list(plain)
        if request.rescale:
            generator = torch.Generator().manual_seed(self.recipe.seed)
            for small, sizes in ((True, FAR_AWAY), (False, CLOSE_UP)):
                variants = rescaled(pictures, small, generator)
                shown = variants[..., 3].amax(dim=(1, 2)) > DARK  # a close-up may leave out what a mask shows
                groups.append(variants[shown])
                fitting.append((own + len(prompts))[shown])
                prompts += [f"{prompt}, {sizes[i % len(sizes)]}" for i, prompt in enumerate(plain)]
        if request.mirror:
            groups += [group.flip(2) for group in groups]
            fitting += fitting
        return torch.cat(groups), torch.cat(fitting), prompts

    def lessons(self) -> Lessons:
        latents = encode_pictures(self.model, self.vae, self.pictures[..., :3])
        masks = None
        if self.pictures[..., 3].min() < 1:
            cells = F.interpolate(self.pictures[..., 3].unsqueeze(1), scale_factor=1 / 8, mode="area")
            masks = cells.to(latents.device)
        load(self.model, self.clip)
        if self.request.ignore_background and not self.request.masks and self.request.kind == "object":
            masks = self._without_background(latents, masks)
        return Lessons(latents, self.prompts, masks)

    def identity(self) -> tuple[object, list[Tensor]]:
        request = self.request
        settings = (
            request.kind,
            tuple(request.prompts),
            (request.class_word_too or request.ignore_background) and request.class_word,
            request.ignore_background,
        )
        return settings, [self.pictures, self.prompts]

    def provenance(self) -> dict[str, str]:
        return {"pictures": str(self.count)}

    def _without_background(self, latents: Tensor, masks: Tensor | None) -> Tensor | None:
        """Masks (M, 1, h, w) of what the pictures and their variants show of the thing; kept in `foreground` for the pictures."""
        word, seed = self.request.class_word, self.recipe.seed
        found = find_foreground(self.model, self.clip, self.schedule, latents, word, seed)
        if found is None:
            return masks
        self.foreground = found[: self.count, 0].cpu()
        return found if masks is None else found * masks

    @property
    def learnt(self) -> Tensor:
        """(N, H, W) in 0..1, what of each picture was learnt."""
        masks = self.pictures[: self.count, ..., 3]
        if self.foreground is None:
            return masks
        return masks * F.interpolate(self.foreground[None], size=masks.shape[1:], mode="bilinear")[0]

    def preview(self, vectors: Vectors) -> Preview:
        """What these vectors give alone, and beside an ordinary thing."""
        with torch.inference_mode():
            context, pooled = self.clip.encode_from_tokens(self.clip.tokenize(""), return_pooled=True)
            load(self.model, self.clip)  # that may have taken the other's memory
            count = len(self.looks)
            last = self.prepared.count - count
            prompts = text_encoder.encode_batch(self.clip, self.prepared, range(last, last + count), vectors)
            empty = Encoded(
                context.to(prompts.context).expand(count, -1, -1), pooled.to(prompts.pooled).expand(count, -1)
            )
            side = self.request.resolution // 8
            generator = torch.Generator().manual_seed(self.recipe.seed)
            noise = torch.randn(count, 4, side, side, generator=generator).to(self.model.load_device)
            size = max(1, fitting(self.model, noise) // 2)  # each is asked for with and without its prompt
            parts = [
                sample(predictor(self.model), self.schedule, part, *asked, PREVIEW_STEPS, PREVIEW_CFG)
                for part, *asked in zip(noise.split(size), prompts.split(size), empty.split(size), strict=True)
            ]
            latents = torch.cat(parts)
            dominance = self._dominance(vectors, latents[1:], noise[1:]) if self._has_company() else None
            return Preview(decode_picture(self.model, self.vae, latents), dominance)

    def _has_company(self) -> bool:
        return self.request.kind == "object" and self.companion != self.request.class_word

    def _dominance(self, vectors: Vectors, latents: Tensor, noise: Tensor) -> float:
        """The part that the word takes of its own and its companion's attention, over what its class word takes in its place.

        Args:
            latents, noise: (1, C, h, w), of a picture of both, and what it is noised by.
        """
        clip = text_encoder.with_concept(
            self.clip, Concept(self.request.name, {key: value.detach().float().cpu() for key, value in vectors.items()})
        )
        timesteps = (torch.tensor(GLIMPSES) * len(self.schedule.alphas_cumprod)).long().to(latents.device)
        noisy = self.schedule.noisy(latents, noise, timesteps)

        def part(word: str) -> float:
            template = TEMPLATES[self.request.kind][0]
            prompt = f"{template.format(word)} and a {self.companion}"
            own, other = text_encoder.columns_in_turn(clip, prompt, [word, self.companion])
            context, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
            asked = Encoded(context.to(latents.device), pooled.to(latents.device))
            load(self.model, self.clip)
            seen = [
                maps.float().mean((0, 2, 3))
                for maps in attention_to(self.model, asked, [*own, *other], noisy, timesteps)
            ]
            shares = torch.stack(seen).mean(0)
            return (shares[: len(own)].sum() / shares.sum()).item()

        return part(self._word()) / part(self.request.class_word)
