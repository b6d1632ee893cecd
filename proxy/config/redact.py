"""Keeping passwords out of texts: their spellings, and the text that stands for them.

Facts: `***redacted***` is what Quickwit writes in place of a password.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Final
from urllib.parse import quote, quote_plus

REDACTED: Final = "***redacted***"


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """Replace every occurrence of a secret in `text`. Doing it twice changes nothing more."""
    return _pattern(secrets).sub(REDACTED, text) if secrets else text


@functools.lru_cache(maxsize=64)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(secrets, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, (REDACTED, *longest_first))))


def secret_forms(password: str, *written: str) -> tuple[str, ...]:
    """Return the spellings under which a password can show up in logs, URIs and error texts."""
    encoded = quote(password, safe="")
    forms = {
        password,
        *written,
        encoded,
        quote(password),
        quote_plus(password),
        re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), encoded),
        repr(password)[1:-1],
        json.dumps(password)[1:-1],
        json.dumps(password, ensure_ascii=False)[1:-1],
    }
    return tuple(sorted(form for form in forms if form))
