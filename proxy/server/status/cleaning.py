"""Making foreign texts fit to be shown: others choose the names and zones that gossip tells."""

from __future__ import annotations

from typing import Final

MOST_NAME: Final = 128
MOST_TEXT: Final = 600
_INSTEAD: Final = "\N{REPLACEMENT CHARACTER}"


def clean(text: str | None, most: int = MOST_NAME) -> str:
    """Return a text of at most `most` characters, all of which can be seen.

    What would move a terminal's cursor or turn the direction of writing is replaced.
    """
    if not text:
        return ""
    cut = text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(one if one.isprintable() else _INSTEAD for one in cut)
