"""When what is done while sampling is done, and how strongly: settings that fade along the noise schedule."""

from dataclasses import dataclass

from torch import Tensor


def progress(sigma: float, sigmas: Tensor) -> float:
    """The fraction of a schedule's steps that lies behind at a noise level.

    A sampler may ask between two levels, more than once a step, or for the same level again: nothing is counted.

    Args:
        sigmas: n + 1, falling.
    """
    steps = len(sigmas) - 1
    behind = int((sigmas[1:] >= sigma * (1 - 1e-4)).sum())
    return behind / max(1, steps)


@dataclass(frozen=True)
class LinearDecay:
    """A strength that falls in a straight line from the start of the noise schedule to 0.

    Attributes:
        strength: at the start; 0 switches it off.
        until: the fraction of the schedule along which it falls.
    """

    strength: float
    until: float = 1.0

    @property
    def is_off(self) -> bool:
        return self.strength == 0 or self.until == 0

    def at(self, progress: float) -> float:
        """What is left of the strength when a fraction of the schedule lies behind."""
        if self.until == 0:
            return 0.0
        return self.strength * max(0.0, 1 - progress / self.until)


@dataclass(frozen=True)
class Steering(LinearDecay):
    """How strongly attention is turned to a layout, in nats.

    For the softmax, a subject's tokens weigh e^strength times as much inside its region, and as much less outside.
    """

    strength: float = 6.0


@dataclass(frozen=True)
class Balance(LinearDecay):
    """How far the subjects' amounts of attention are evened out; this needs no layout.

    At 1, all subjects get the same amount, in each block; at less, a part of what that takes, in nats, is added to the logits.
    """

    strength: float = 0.0


@dataclass(frozen=True)
class Bounding(LinearDecay):
    """How much less the cells of one region attend to those of another in self-attention, in nats.

    Of "Be Yourself" (Dahary et al., ECCV 2024) the half that needs no gradients, in the part of the schedule that decides what is where.
    """

    strength: float = 6.0
    until: float = 0.4
