"""The log lines of this process, as a node writes them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy import logs


class Lines:
    """What has been written so far."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def of(self, message: str) -> list[dict[str, Any]]:
        """Return the lines with this message."""
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["message"] == message]


@contextmanager
def written(level: str = "info") -> Iterator[Lines]:
    """Collect the lines of this level and above."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    lines = Lines()
    logs.configure(log_format="json", level=level, stream=lines.stream)
    try:
        yield lines
    finally:
        logs.set_levels("info")
        root.handlers[:] = handlers
        root.setLevel(before)
