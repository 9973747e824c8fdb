"""Where each subject's tokens sit in an encoded prompt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something that a prompt names.

    Attributes:
        phrase: as the prompt writes it, such as "embedding:mittens" or "red car".
        class_phrase: what stands for it in the probe: a concept's class word; an ordinary phrase itself.
        columns: its tokens on the token axis of the encoded prompt; token p of chunk c sits at 77 c + p.
        probe_columns: the same in the probe.
    """

    phrase: str
    class_phrase: str
    columns: tuple[int, ...]
    probe_columns: tuple[int, ...]

    @property
    def name(self) -> str:
        """Short, for pictures and messages."""
        return self.phrase.removeprefix("embedding:")
