"""Static SQL by name, read once from `sql/queries/<entity>/<verb>.sql`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

# By the first line of a file, which stays when a statement is built from it.
_NAMES: Final[dict[str, str]] = {}


@cache
def query(name: str) -> str:
    """Return the SQL of `<entity>/<verb>`; each file opens with one line on its purpose."""
    path = resources.files("proxy.store").joinpath("sql", "queries", f"{name}.sql")
    text = path.read_text(encoding="utf-8")
    _NAMES[_first_line(text)] = name
    return text


def name_of(sql: str) -> str:
    """Return the name of a statement from a file, else its first word (`BEGIN`). Shows no value."""
    return _NAMES.get(_first_line(sql)) or sql.lstrip().partition(" ")[0].rstrip(";")[:32].upper()


def _first_line(sql: str) -> str:
    return sql.partition("\n")[0]
