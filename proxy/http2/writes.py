"""What goes to the socket of one connection: all that is written in a turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

# What is not held back for more to be sent along.
_AT_ONCE: Final = 32 * 1024


class Writes:
    """Collects what is written until the event loop's next turn, or until there is much of it.

    Calls that end in the same turn, and the frames of each, then cost both sides one system call.
    The order is kept.
    """

    __slots__ = ("_is_due", "_loop", "_parts", "_transport", "size")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._is_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # The bytes that the transport has not got yet.
        self.size = 0

    def add(self, data: bytes) -> None:
        """Write `data`, at the latest in the next turn."""
        self._parts.append(data)
        self.size += len(data)
        if self.size > _AT_ONCE:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            if self._loop is None:
                # To ask for it takes a system call each time.
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._turn)

    def at_once(self, data: bytes) -> None:
        """Write `data` now, after what was collected."""
        if self._parts:
            self._parts.append(data)
            self.flush()
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write now what was collected."""
        parts = self._parts
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self.size = 0
            self._transport.write(data)

    def _turn(self) -> None:
        self._is_due = False
        self.flush()
