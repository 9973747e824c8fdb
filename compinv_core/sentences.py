"""What errors and notices quote of a user's text."""

MAX_QUOTE = 100  # letters


def quoted(text: str, letters: int = MAX_QUOTE) -> str:
    """A user's or a file's text, as a sentence can quote it: on one line, and its beginning where it is long."""
    line = " ".join(text[: 4 * letters].split())
    return line if len(text) <= 4 * letters and len(line) <= letters else f"{line[: letters - 1]}…"


def check_letters(text: str, name: str) -> None:
    """Raises ValueError when a text holds half of a character, as bad copying leaves behind: no tokenizer reads it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The input {name} holds half of a character (U+{ord(text[error.start]):04X}) as its letter {error.start + 1}; delete it."
        ) from error
