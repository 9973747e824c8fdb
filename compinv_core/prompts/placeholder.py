"""{concept} in a prompt: the concept that is there, whatever its name."""

from collections.abc import Collection

from ..sentences import quoted

CONCEPT = "{concept}"


def with_name(text: str, names: Collection[str]) -> str:
    """A text with `embedding:` and the concept's name in each place of {concept}.

    Args:
        names: of the concepts that are applied or connected.

    Raises:
        ValueError: the text has {concept}, and there is no concept, or more than one.
    """
    if CONCEPT not in text:
        return text
    written = [f"embedding:{name}" for name in names]
    if not written:
        raise ValueError(
            f'"{quoted(text)}" has {CONCEPT}, but no concept is applied to this CLIP; connect Apply Concept, or write embedding: and the '
            "name of a file."
        )
    if len(written) > 1:
        raise ValueError(
            f'"{quoted(text)}" has {CONCEPT}, but {len(written)} concepts are applied; write {quoted(" or ".join(written))}.'
        )
    return text.replace(CONCEPT, written[0])
