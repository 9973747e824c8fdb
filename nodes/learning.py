"""What every training node has in common: its progress, its cancelling, and that nothing learnt is lost."""

import logging
import time
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
PREPARING = "preparing: encoding the images"
FINDING = "preparing: finding what is learnt, image {} of {}"
Picture = tuple[str, Image.Image, int]


def learn(
    cls: type[io.ComfyNode], run: TrainingRun, on_evaluation: Callable[[Progress], tuple[str, Picture | None]]
) -> tuple[Checkpoint, str]:
    """Run it with a progress bar. What a run had learnt that was cancelled or failed is kept in output/embeddings,
    where Load Concept will not list it until the user moves it there.

    Args:
        on_evaluation: called at every evaluation; the text and the picture that it returns are shown on the node, below the step
            and the time that is left.

    Returns:
        The state at the end, and the last text.
    """
    management, steps, said = comfy.model_management, run.recipe.steps, ""
    bar, pace = comfy.utils.ProgressBar(steps), Pace(steps)
    say(cls, "\n".join([PREPARING, *run.notices]))
    run.on_finding = lambda number, count: say(cls, "\n".join([FINDING.format(number, count), *run.notices]))

    def interrupted() -> bool:
        if management.processing_interrupted():
            return True
        bar.update(1)
        return False

    def on_report(progress: Progress) -> None:
        nonlocal said
        picture, now = None, pace.at(progress.step, time.monotonic())
        if progress.evaluation is not None:
            said, picture = on_evaluation(progress)
        say(cls, f"{now}\n{said}".strip())
        bar.update_absolute(progress.step, steps, picture)

    own = Path(folder_paths.get_user_directory()) / "compositional_inversion"
    folder = own / "runs"
    with kept(cls, run):
        end = run.run(folder, interrupted, on_report, finished=own / "finished")
        if end.step < steps:
            management.interrupt_current_processing(False)  # as raising it does
            raise management.InterruptProcessingException
    run.forget(folder)
    return end, f"{pace.at(steps)}\n{said}"


class Pace:
    """How far a run is, and how long it will take at the pace that it had on this machine since its first report."""

    def __init__(self, steps: int):
        self.steps = steps
        self.began: tuple[int, float] | None = None

    def at(self, step: int, now: float | None = None) -> str:
        """A line that says so.

        Args:
            now: seconds; None leaves the time out.
        """
        line = f"step {step}/{self.steps}"
        if now is None or step == self.steps:
            return line
        if self.began is None:
            self.began = step, now
            return line
        first, then = self.began
        left = (now - then) / max(1, step - first) * (self.steps - step)
        return f"{line}, about {in_words(left)} left"


def in_words(seconds: float) -> str:
    """Rounded as one would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds / 5)) * 5} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def compared(loss: float, initial: float) -> str:
    """A validation loss beside the one that a run began with."""
    change = loss / max(initial, 1e-12) - 1
    return (
        f"validation loss {loss:.4g}, {abs(change):.1%} {'above' if change > 0 else 'below'} the initial {initial:.4g}"
    )


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
