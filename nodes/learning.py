"""What every training node has in common: its progress, its cancelling, and that nothing learnt is lost."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io
from PIL import Image

from ..compinv_core.training.checkpoint import Checkpoint, Progress
from ..compinv_core.training.run import TrainingRun
from .live_text import say, warn

log = logging.getLogger(__name__)
Picture = tuple[str, Image.Image, int]


def learn(
    cls: type[io.ComfyNode], run: TrainingRun, on_evaluation: Callable[[Progress], tuple[str, Picture | None]]
) -> tuple[Checkpoint, str]:
    """Run it with a progress bar. What a run had learnt that was cancelled or failed is kept in output/embeddings,
    where Load Concept will not list it until the user moves it there.

    Args:
        on_evaluation: called at every evaluation; the text and the picture that it returns are shown on the node.

    Returns:
        The state at the end, and the last text.
    """
    management, steps, said = comfy.model_management, run.recipe.steps, ""
    bar = comfy.utils.ProgressBar(steps)

    def interrupted() -> bool:
        if management.processing_interrupted():
            return True
        bar.update(1)
        return False

    def on_report(progress: Progress) -> None:
        nonlocal said
        picture = None
        if progress.evaluation is not None:
            said, picture = on_evaluation(progress)
            say(cls, said)
        bar.update_absolute(progress.step, steps, picture)

    own = Path(folder_paths.get_user_directory()) / "compositional_inversion"
    folder = own / "runs"
    with kept(cls, run):
        end = run.run(folder, interrupted, on_report, finished=own / "finished")
        if end.step < steps:
            management.interrupt_current_processing(False)  # as raising it does
            raise management.InterruptProcessingException
    run.forget(folder)
    return end, said


@contextmanager
def kept(cls: type[io.ComfyNode], run: TrainingRun) -> Generator[None]:
    """Saves the word learnt so far, and says where, when what happens within is cancelled or fails."""
    management = comfy.model_management
    ends = {
        management.InterruptProcessingException: "was cancelled",
        FloatingPointError: "diverged",
        MemoryError: "ran out of memory",
        management.OOM_EXCEPTION: "ran out of memory",
    }
    try:
        yield
    except tuple(ends) as error:
        how = next(how for kind, how in ends.items() if isinstance(error, kind))
        output = Path(folder_paths.get_output_directory())
        notice = f"Training {how} {run.keep(output / 'embeddings', output / 'loras')}"
        log.info(notice)
        warn(cls, f"Training {how}", notice)
        raise
