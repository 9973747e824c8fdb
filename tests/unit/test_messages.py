"""What the pack's errors say, read from its source: short enough to be read, and nothing of a user's at full length."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from compositional_inversion.compinv_core.sentences import MAX_QUOTE

ROOT = Path(__file__).parents[2]
MAX_MESSAGE = 300  # letters
OTHER = 15  # letters, of a number, a name or a list of few
USERS = {"text", "prompt", "phrase", "word", "template", "line"}
"""Variables that hold what a user wrote, of any length."""


def messages() -> Iterator[tuple[str, list[ast.expr]]]:
    """Where an error is raised, or an output blocked, and its arguments."""
    for file in [*ROOT.glob("nodes/*.py"), *ROOT.glob("compinv_core/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node
            blocks = isinstance(call, ast.Call) and ast.unparse(call.func) == "ExecutionBlocker"
            if isinstance(call, ast.Call) and (isinstance(node, ast.Raise) or blocks):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", call.args


def length(message: ast.expr) -> int:
    """The letters of a message at its longest, as far as its source tells."""
    match message:
        case ast.Constant(value=str(text)):
            return len(text)
        case ast.JoinedStr(values=values):
            return sum(length(value) for value in values)
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="quoted"), args=[_, ast.Constant(value=int(letters))])):
            return letters
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="quoted"))):
            return MAX_QUOTE
        case ast.IfExp(body=body, orelse=orelse):
            return max(length(body), length(orelse))
        case ast.BinOp(left=left, right=right):
            return length(left) + length(right)
        case _:
            return OTHER


def users_texts(message: ast.expr) -> list[str]:
    """What of a user's a message holds at full length."""
    inside = [part.value for part in ast.walk(message) if isinstance(part, ast.FormattedValue)]
    written = [ast.unparse(value) for value in inside]
    return [name for name in written if name in USERS or name.endswith((".phrase", ".texts[0]"))]


def test_no_error_is_longer_than_300_letters():
    found = {where: sum(map(length, arguments)) for where, arguments in messages()}
    assert len(found) > 200
    assert {where: letters for where, letters in found.items() if letters > MAX_MESSAGE} == {}


def test_no_error_holds_a_users_text_at_full_length():
    found = {where: [name for one in arguments for name in users_texts(one)] for where, arguments in messages()}
    assert {where: names for where, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "letters", "whole"),
    [
        ("'too long'", 8, []),
        ("f'{quoted(text)} and {quoted(text, 40)}'", MAX_QUOTE + 5 + 40, []),
        ("f'{text}, {count}' + 'abc'", 2 * OTHER + 5, ["text"]),
        ("f'{region.phrase}' if region else ''", OTHER, ["region.phrase"]),
    ],
)
def test_a_message_is_read_from_its_source(source: str, letters: int, whole: list[str]):
    message = ast.parse(source, mode="eval").body
    assert length(message) == letters and users_texts(message) == whole
