"""The place of one worker: the process that is in it now, and what is known of it.

States::

    STARTING --says that it is ready--> SERVING <--> NOT_READY
    any      --ends, or is hung-------> ENDED --after a pause--> STARTING
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final

from proxy.workers.link import Link, NoAnswerError
from proxy.workers.merging import Families, retire

log = logging.getLogger(__name__)

# A worker is asked so often (seconds) whether its event loop runs, and killed when it has left so
# many questions in a row unanswered. One that is starting has that long to say anything.
PING_INTERVAL: Final = 5.0
MOST_SILENT: Final = 6
# How long, in seconds, what a worker that has ended told last is read, should the socket live on.
LAST_WORDS: Final = 1.0


class Status(Enum):
    """What a worker does."""

    STARTING = "starting"
    SERVING = "serving"
    NOT_READY = "not_ready"
    ENDED = "ended"


class Slot:
    """Runs one worker at a time. `on_change` is told of each change of what `describe` returns.

    `command` returns the command line for the worker of a slot that gets a descriptor as its link.
    """

    def __init__(
        self,
        number: int,
        command: Callable[[Slot, int], Sequence[str]],
        environment: Mapping[str, str],
        *,
        on_change: Callable[[], None],
        on_note: Callable[[Slot, str, Any], None],
        answer: Callable[[str, Any], Awaitable[Any]],
    ) -> None:
        self.number = number
        self.status = Status.STARTING
        self.reason = ""
        self.starts = 0
        self.has_served = False
        self.busy = 0
        self.ping_interval = PING_INTERVAL
        self.ended: Families = []
        self._last: Families = []
        self._command = command
        self._environment = environment
        self._on_change = on_change
        self._on_note = on_note
        self._answer = answer
        self._link: Link | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._wants_hangup = False
        self._is_stopped = False

    def describe(self) -> dict[str, Any]:
        """Return what the others are told of this worker."""
        return {
            "number": self.number,
            "status": self.status.value,
            "reason": self.reason,
            "has_served": self.has_served,
            "busy": self.busy,
            "restarts": max(0, self.starts - 1),
        }

    async def run(self) -> int:
        """Start a worker and stay with it to its end; return its exit status, -N for signal N."""
        ours, theirs = socket.socketpair()
        self._set(Status.STARTING, "it is starting")
        try:
            self.starts += 1
            self._process = await asyncio.create_subprocess_exec(
                *self._command(self, theirs.fileno()),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # A key pressed in the terminal is for the parent, which passes it on once.
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._is_stopped:
            self.send_signal(signal.SIGTERM)
        link = self._link = Link(self._noted, self._answer)
        await link.open(ours)
        reading = asyncio.create_task(link.run(), name=f"worker {self.number} link")
        watching = asyncio.create_task(self._watch(link), name=f"worker {self.number} watch")
        try:
            status = await self._process.wait()
            # What it told last is still to be read; it may be that it has served.
            await asyncio.wait((reading,), timeout=LAST_WORDS)
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.wait({reading, watching})
            self._link = None
            link.close()
        self._process = None
        if self._is_stopped and self.status is Status.STARTING and status == -signal.SIGTERM:
            # It had nothing to drain yet.
            status = 0
        self.busy = 0
        self.ended, self._last = retire(self.ended, self._last), []
        self._set(Status.ENDED, f"it {how_ended(status)}")
        return status

    def tell(self, kind: str, body: object) -> None:
        """Tell the worker something, if there is one."""
        if self._link is not None:
            self._link.tell(kind, body)

    async def ask(self, kind: str, body: object, timeout: float) -> Any:
        """Ask the worker. `NoAnswerError` when it does not answer, or there is none."""
        if self._link is None or not self._link.is_open:
            raise NoAnswerError(f"worker {self.number} is not there")
        return await self._link.ask(kind, body, timeout=timeout)

    async def families(self, timeout: float) -> tuple[bool, Families]:
        """Return the worker's metrics, else the last that it told, and whether they are new."""
        try:
            self._last = await self.ask("metrics", None, timeout)
        except NoAnswerError:
            return False, self._last
        return True, self._last

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker; a hangup waits until it can take one."""
        self._is_stopped = self._is_stopped or number == signal.SIGTERM
        if number == signal.SIGHUP and self.status is Status.STARTING:
            self._wants_hangup = True
        elif self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _noted(self, kind: str, body: Any) -> None:
        if kind == "drained":
            self._set(Status.ENDED, "it has drained")
            return
        if kind == "busy":
            self.busy = int(body)
            self._on_change()
            return
        if kind != "state":
            self._on_note(self, kind, body)
            return
        is_ready = bool(body["ready"])
        self.has_served = self.has_served or is_ready
        self._set(Status.SERVING if is_ready else Status.NOT_READY, str(body["reason"]))
        if self._wants_hangup:
            self._wants_hangup = False
            self.send_signal(signal.SIGHUP)

    def _set(self, status: Status, reason: str) -> None:
        if (status, reason) != (self.status, self.reason) or self.starts == 0:
            self.status, self.reason = status, reason
            self._on_change()

    async def _watch(self, link: Link) -> None:
        """End the worker when it has answered nothing for long."""
        silent = 0
        # Questions are counted and not seconds: all of them may have been frozen for a while.
        while silent < MOST_SILENT:
            try:
                await link.ask("ping", timeout=self.ping_interval)
                silent = 0
                await asyncio.sleep(self.ping_interval)
            except NoAnswerError:
                silent += 1
        log.error("worker does not answer: it is killed", extra={"which": f"worker {self.number}"})
        self.send_signal(signal.SIGKILL)


def how_ended(status: int) -> str:
    """Return in words how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
