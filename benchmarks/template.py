"""A page from a template: prose by hand, tables and figures at marks.

A line `<!-- table: name -->` is replaced by that table. `{{key/key/key}}` is replaced by the figure at that path, a share in
percent; `{{key/key:.3f}}` says how it is written.
"""

import re
from collections.abc import Mapping
from typing import Any

from intervals import Estimate

TABLE = re.compile(r"^<!-- table: (.+?) -->$", re.MULTILINE)
FIGURE = re.compile(r"\{\{([^{}:]+)(?::([^{}]+))?\}\}")


def filled(template: str, tables: Mapping[str, str], figures: Mapping[str, Any]) -> str:
    """Raises:
    ValueError: a mark names no table or figure, or a table has no mark.
    """
    marks = TABLE.findall(template)
    if unknown := [name for name in marks if name not in tables]:
        raise ValueError(f'The template has a mark for the table "{unknown[0]}"; known tables: {", ".join(tables)}.')
    if unused := [name for name in tables if name not in marks]:
        raise ValueError(f'The table "{unused[0]}" has no mark in the template; write <!-- table: {unused[0]} -->.')
    cited = FIGURE.sub(lambda mark: figure(figures, mark[1].strip(), mark[2]), template)
    return TABLE.sub(lambda mark: tables[mark[1]], cited)


def figure(figures: Mapping[str, Any], path: str, how: str | None = None) -> str:
    """Raises:
    ValueError: nothing is there, or no number.
    """
    found: Any = figures
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, Estimate):
        found = found.value
    if not isinstance(found, int | float):
        raise ValueError(f'The template cites "{path}", which is no figure of results.json.')
    return format(found, how or (",d" if isinstance(found, int) else ".0%"))
