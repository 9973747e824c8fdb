"""What every node that learns a word has in common: its progress, its cancelling, and that nothing learnt is lost."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from PIL import Image

from ..compinv_core.concept import Concept, write_concept
from ..compinv_core.host.training import Learning
from ..compinv_core.training.loop import Checkpoint, Progress

log = logging.getLogger(__name__)
Picture = tuple[str, Image.Image, int]


def learn(learning: Learning, on_check: Callable[[Progress], Picture | None]) -> tuple[Checkpoint, list[Progress]]:
    """Run it with a progress bar. What a run had learnt that was cancelled or went astray is kept in output/embeddings.

    Args:
        on_check: called at every check; what it returns is shown on the node.

    Returns:
        The state at the end, and every report.
    """
    management, steps = comfy.model_management, learning.recipe.steps
    bar = comfy.utils.ProgressBar(steps)
    history: list[Progress] = []

    def interrupted() -> bool:
        if management.processing_interrupted():
            return True
        bar.update(1)
        return False

    def on_report(progress: Progress) -> None:
        history.append(progress)
        bar.update_absolute(progress.step, steps, None if progress.check is None else on_check(progress))

    folder = Path(folder_paths.get_user_directory()) / "compositional_inversion" / "runs"
    with kept(lambda: learning.concept(history[-1].checkpoint) if history else None):
        end = learning.run(folder, interrupted, on_report)
        management.throw_exception_if_processing_interrupted()
    return end, history


@contextmanager
def kept(word: Callable[[], Concept | None]) -> Generator[None]:
    """Saves the word learnt so far when what happens within is cancelled or goes astray."""
    try:
        yield
    except (comfy.model_management.InterruptProcessingException, FloatingPointError) as error:
        if (concept := word()) is not None:
            _keep(concept, error)
        raise


def _keep(concept: Concept, error: Exception) -> None:
    """What a run had learnt that did not end well, where Load Concept will not list it until the user moves it there."""
    folder = Path(folder_paths.get_output_directory()) / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := folder / f"{concept.name}-unfinished-{number}.safetensors").exists():
        number += 1
    write_concept(concept, path)
    what = "was cancelled" if isinstance(error, comfy.model_management.InterruptProcessingException) else "went astray"
    log.info("Training %s; the word of step %s is in %s.", what, concept.provenance["steps"], path)
