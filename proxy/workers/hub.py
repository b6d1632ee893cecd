"""A worker's side of the link to its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from proxy.config import Worker
from proxy.workers.link import Link, NoAnswerError

log = logging.getLogger(__name__)

# How long the first worker waits for the metrics of all; the parent's own bound is less.
_METRICS_BOUND: Final = 3.0
_CLUSTER_BOUND: Final = 6.0
# Whoever looks at a node waits no longer than that for what the first worker knows better.
_STATUS_BOUND: Final = 1.0

Note = Callable[[Any], None]
Question = Callable[[], Awaitable[Any]]


class Hub:
    """Open from `open` to `close`. `notes` and `questions` are by kind.

    A worker whose parent is gone drains and ends; `drain_bound` is how many seconds it has for
    that.
    """

    def __init__(self, worker: Worker, *, drain_bound: float) -> None:
        self.worker = worker
        self.notes: dict[str, Note] = {"workers": self._heard_of_workers}
        self.questions: dict[str, Question] = {"ping": _ping}
        self.workers: list[dict[str, Any]] = []
        self.on_workers: Callable[[], None] = lambda: None
        self.drain_bound = drain_bound
        self._link = Link(self._note, self._answer)
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Take up the link. Idempotent."""
        if self._reading is not None:
            return
        sock = socket.socket(fileno=self.worker.link)
        # Not to be handed to whatever this process may start.
        sock.set_inheritable(False)
        _end_with_parent(os.dup(sock.fileno()), lambda: self.drain_bound)
        await self._link.open(sock)
        self._reading = asyncio.create_task(self._link.run(), name="parent")
        self._link.tell("hello")

    def tell(self, kind: str, body: object) -> None:
        """Tell the parent something."""
        self._link.tell(kind, body)

    async def node_metrics(self) -> Any:
        """Return the merged families of all workers. `NoAnswerError` when they cannot be had."""
        return await self._link.ask("node metrics", timeout=_METRICS_BOUND)

    async def cluster_state(self) -> Any:
        """Return what the first worker answers to `cluster state`. `NoAnswerError` as above."""
        return await self._link.ask("cluster state", timeout=_CLUSTER_BOUND)

    async def status(self) -> Any:
        """Return what the first worker answers to `status`. `NoAnswerError` as above."""
        return await self._link.ask("status", timeout=_STATUS_BOUND)

    async def others_ended(self, timeout: float) -> None:
        """Wait until no other worker runs, for `timeout` seconds at most."""
        reading = self._reading
        if reading is None:
            return
        try:
            async with asyncio.timeout(timeout):
                while not reading.done() and any(
                    one["number"] != self.worker.number and one["status"] != "ended"
                    for one in self.workers
                ):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the other workers have not ended in time")

    async def close(self) -> None:
        """End the link. Idempotent."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
        self._link.close()

    def _note(self, kind: str, body: Any) -> None:
        if kind in self.notes:
            self.notes[kind](body)

    async def _answer(self, kind: str, _body: Any) -> Any:
        if kind not in self.questions:
            raise NoAnswerError(f"this worker knows nothing of `{kind}`")
        return await self.questions[kind]()

    def _heard_of_workers(self, told: list[dict[str, Any]]) -> None:
        self.workers = told
        self._changed.set()
        self.on_workers()


async def _ping() -> bool:
    return True


def _end_with_parent(link: int, bound: Callable[[], float]) -> None:
    """Have this process drain when the other end of `link` is closed, and end within `bound`.

    A thread of its own: the parent may have been killed because nothing here answers.
    """

    def watch() -> None:
        poll = select.poll()
        # Without any event asked for, what comes is the end.
        poll.register(link, 0)
        poll.poll()
        log.error("the parent of this worker has ended, and so does the worker")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(bound())
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
