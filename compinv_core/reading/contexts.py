"""The contexts of a prompt: its encodings, put one behind the other along the token axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Context:
    """One encoding of a prompt: as it is written, in class words, or with one of its concepts learnt.

    Attributes:
        length: L tokens.
        columns: of each of S subjects, the token columns in this context; none of a subject that is not named here.
    """

    length: int
    columns: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Contexts:
    """All that is read of one prompt. The contexts have the same S subjects, in the same order.

    A column is a place on the token axis of all contexts together: those of the second come behind all of the first.
    """

    parts: tuple[Context, ...]

    def __post_init__(self) -> None:
        if len({len(part.columns) for part in self.parts}) != 1:
            counts = ", ".join(str(len(part.columns)) for part in self.parts)
            raise ValueError(f"The contexts of a prompt name {counts} subjects; all must list the same ones.")

    @classmethod
    def one(cls, length: int, columns: Sequence[Sequence[int]] = ()) -> "Contexts":
        """The prompt alone."""
        return cls((Context(length, tuple(tuple(own) for own in columns)),))

    @property
    def lengths(self) -> list[int]:
        return [part.length for part in self.parts]

    @property
    def length(self) -> int:
        """L, of all contexts together."""
        return sum(self.lengths)

    @property
    def offsets(self) -> list[int]:
        """The first column of each context."""
        return [0, *accumulate(self.lengths)][:-1]

    @property
    def columns(self) -> list[list[int]]:
        """Of each of S subjects, its columns in all contexts."""
        return [
            [
                offset + column
                for offset, part in zip(self.offsets, self.parts, strict=True)
                for column in part.columns[subject]
            ]
            for subject in range(len(self.parts[0].columns))
        ]

    @property
    def subject_columns(self) -> list[int]:
        """The P columns of all subjects, one subject's after the other's."""
        return [column for own in self.columns for column in own]

    @property
    def owners(self) -> list[int]:
        """Of each of these P columns, the index of its subject."""
        return [subject for subject, own in enumerate(self.columns) for _ in own]
