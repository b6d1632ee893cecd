"""What is wrong with a configuration, told to a person who can mend it.

A message names the key, shows the shape of a value but never the content of one that may hold a
secret, and says what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.\-\[\]]{1,64}")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one message for each reason."""

    def __init__(self, *problems: str, where: str = "") -> None:
        self.problems = problems
        self.where = where
        place = f" in {where}" if where else ""
        if len(problems) == 1:
            text = f"invalid configuration{place}: {problems[0]}"
        else:
            lines = "".join(f"\n  - {problem}" for problem in problems)
            text = f"{len(problems)} problems{place or ' in the configuration'}:{lines}"
        super().__init__(text)


class Findings:
    """Collects the errors and warnings of one load, so that they are reported together."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, message: str) -> None:
        """Note a reason to refuse the configuration; the same one is kept once."""
        if message not in self.errors:
            self.errors.append(message)

    def warn(self, message: str) -> None:
        """Note something that the node logs and lives with; the same one is kept once."""
        if message not in self.warnings:
            self.warnings.append(message)


def quoted(name: object) -> str:
    """Return a key or name in backquotes, or only its shape when it does not look like a name."""
    if isinstance(name, str):
        if _PLAIN_NAME.fullmatch(name):
            return f"`{name}`"
        return f"a name of {len(name)} characters (not shown)"
    return f"a name that is {shape(name)}"


def shape(value: object) -> str:
    """Return what kind of value this is, never its content."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return f"a string of {len(value)} characters" if value else "an empty string"
    if isinstance(value, list):
        return f"a list of {len(value)} items"
    for kind, name in ((bool, "a boolean"), (int | float, "a number"), (dict, "a mapping")):
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the hint of an "unknown name" message: the nearest known one, or all of them."""
    choices = sorted(set(known))
    close = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return "known are " + ", ".join(f"`{choice}`" for choice in choices)
