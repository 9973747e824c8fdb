"""Prompts to train with, and where each subject's tokens sit in an encoded prompt."""

from dataclasses import dataclass

OBJECT_TEMPLATES = tuple(
    f"{kind} {{}}"
    for kind in (
        "a photo of a", "a picture of a", "an image of a", "a rendering of a", "a good photo of a", "a nice photo of a",
        "a cool photo of a", "a bright photo of a", "a dark photo of a", "a clean photo of a", "a cropped photo of a",
        "a snapshot of a", "a photo of the", "a photo of my", "a photo of one", "a picture of the", "a picture of my",
        "an image of the", "a rendering of the", "a rendering of one", "a good photo of the", "a nice photo of my",
        "a cool photo of the", "a bright photo of the", "a dark photo of the", "a clean photo of the",
        "a cropped photo of the",
    )
)  # fmt: skip
STYLE_TEMPLATES = tuple(
    f"{kind} in the style of {{}}"
    for kind in (
        "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting",
        "a dark painting", "a picture", "a cool painting", "a bright painting", "a good painting", "one painting",
        "a nice painting", "a small painting", "a weird painting", "a large painting", "a drawing", "a sketch", "an image",
    )
)  # fmt: skip


FAR_AWAY = ("far away", "very small")
CLOSE_UP = ("close up", "zoomed in")


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
