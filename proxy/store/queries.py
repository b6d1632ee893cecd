"""Static SQL by name, read once from `sql/queries/<entity>/<verb>.sql`."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def query(name: str) -> str:
    """Return the SQL of `<entity>/<verb>`; each file opens with one line on its purpose."""
    path = resources.files("proxy.store").joinpath("sql", "queries", f"{name}.sql")
    return path.read_text(encoding="utf-8")
