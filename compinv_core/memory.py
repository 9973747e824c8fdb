"""How large micro-batches are, and whether activations are checkpointed: one policy for training and for guided sampling."""

from dataclasses import dataclass, replace

HEADROOM = 1.2  # what a backward needs, in units of the activations that its forward saves
CHECKPOINTED_SHARE = 0.25  # of those activations, what gradient checkpointing leaves
GB = 1e9


@dataclass(frozen=True)
class MemoryPlan:
    """Micro-batches and gradient checkpointing, from an estimate or after an out-of-memory error.

    Attributes:
        fixed, per_image: bytes of saved activations of a step, and of each image on top.
        batch: images of a step.
        micro_batch: images that go through the model together; gradients are accumulated over them.
        checkpointing: whether blocks keep their inputs alone and compute the rest again.
    """

    fixed: float
    per_image: float
    batch: int
    micro_batch: int
    checkpointing: bool = False

    @classmethod
    def fitting(cls, fixed: float, per_image: float, batch: int, free: float) -> "MemoryPlan":
        """As many images as fit into `free` bytes; where not one does, with gradient checkpointing."""
        available = max(0.0, free / HEADROOM - fixed)
        fit = int(available / per_image)
        checkpointing = fit == 0
        if checkpointing:
            fit = int(available / (CHECKPOINTED_SHARE * per_image))
        return cls(fixed, per_image, batch, micro_batch=max(1, min(batch, fit)), checkpointing=checkpointing)

    @property
    def reserve(self) -> float:
        """Bytes that a step needs beside the weights."""
        share = CHECKPOINTED_SHARE if self.checkpointing else 1.0
        return HEADROOM * (self.fixed + self.micro_batch * share * self.per_image)

    def at_most(self, micro_batch: int) -> "MemoryPlan":
        """The same with no larger micro-batches: a run that goes on must sum in the same parts."""
        return replace(self, micro_batch=min(self.micro_batch, micro_batch))

    def on_out_of_memory(self) -> "MemoryPlan | None":
        """What to try next: half the micro-batch, then gradient checkpointing; None when nothing is left."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=self.micro_batch // 2)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def describe(self, free: float) -> str:
        parts = [
            f"Activations: {self.fixed / GB:.1f} GB + {self.per_image / GB:.1f} GB per image, {free / GB:.1f} GB free: "
            f"micro-batches of {self.micro_batch} (batch {self.batch})"
        ]
        if self.checkpointing:
            parts.append("gradient checkpointing on, a quarter of the memory for 1.4 times the time")
        return "; ".join(parts) + "."
