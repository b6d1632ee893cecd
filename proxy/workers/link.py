"""Messages between the parent and a worker, both ways over one socket.

A message is a length of four bytes and a JSON object: `kind` and `body`; a question has a number,
and its answer the same one. What one side does not know it leaves unanswered, so that a question
has to have a bound.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

log = logging.getLogger(__name__)

_LENGTH: Final = struct.Struct(">I")
# A peer that takes nothing is hung; it is not told more than this many bytes.
_MOST_WAITING: Final = 16 * 1024 * 1024
_ANSWER: Final = "answer"

Notes = Callable[[str, Any], None]
Answerer = Callable[[str, Any], Awaitable[Any]]


class NoAnswerError(Exception):
    """The other side did not answer a question in time, or is gone."""


class Link:
    """One end. `on_note` gets what is told, `answer` each question; `run` reads until the end."""

    def __init__(self, on_note: Notes, answer: Answerer) -> None:
        self._on_note = on_note
        self._answer = answer
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._count = 0

    @property
    def is_open(self) -> bool:
        """Whether anything can be told."""
        return self._writer is not None

    async def open(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)

    async def run(self) -> None:
        """Take messages until the other side, or `close`, ends it."""
        if self._reader is None:
            raise RuntimeError("the link is not open")
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                self._take(json.loads(await self._reader.readexactly(length)))

    def tell(self, kind: str, body: object = None) -> None:
        """Send a note; does nothing when the other side is gone, or takes nothing."""
        self._send({"kind": kind, "body": body})

    async def ask(self, kind: str, body: object = None, *, timeout: float) -> Any:
        """Return the answer to a question. `NoAnswerError` after `timeout` seconds."""
        self._count += 1
        number = self._count
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"kind": kind, "body": body, "number": number})
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            raise NoAnswerError(f"no answer to `{kind}` within {timeout:g} s") from error
        finally:
            del self._asked[number]

    def close(self) -> None:
        """Tell and take nothing more. Idempotent."""
        for task in self._answering:
            task.cancel()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _send(self, message: dict[str, object]) -> None:
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return
        if writer.transport.get_write_buffer_size() > _MOST_WAITING:
            return
        data = json.dumps(message).encode()
        writer.write(_LENGTH.pack(len(data)) + data)

    def _take(self, message: dict[str, Any]) -> None:
        kind, body, number = message["kind"], message["body"], message.get("number")
        if kind == _ANSWER:
            answer = self._asked.get(body["number"])
            if answer is not None and not answer.done():
                answer.set_result(body["body"])
        elif number is None:
            self._on_note(kind, body)
        else:
            task = asyncio.create_task(self._reply(kind, body, number), name=f"answer {kind}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _reply(self, kind: str, body: Any, number: int) -> None:
        try:
            found = await self._answer(kind, body)
        except NoAnswerError as error:
            log.debug("question not answered", extra={"question": kind, "reason": str(error)})
            return
        self.tell(_ANSWER, {"number": number, "body": found})
