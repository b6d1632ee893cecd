"""The parent of a node's workers: starts them, and one that ended again; ends them all at the end.

It passes on what workers tell each other: how they are, the cluster as the first one sees it, what
they count, and their metrics, which it keeps so that no counter goes back when a worker ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.config import Worker
from proxy.workers.dividing import render_worker
from proxy.workers.link import NoAnswerError
from proxy.workers.merging import Families, merge, retire
from proxy.workers.slot import Slot, how_ended

log = logging.getLogger(__name__)

# A scrape waits so many seconds for workers that do not answer.
SCRAPE_BOUND: Final = 1.0
# And who asks for the state of the cluster.
_ASK_BOUND: Final = 5.0
_FIRST_KNOWS: Final = frozenset({"cluster state", "status"})
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0
# A worker that ran for so many seconds is started again as if it never had ended before.
_STEADY: Final = 30.0


def backoff(failures: int) -> float:
    """Return the seconds until a worker is started again that ended so often in a row (from 1)."""
    return min(BACKOFF_FIRST * 2.0 ** min(failures - 1, 16), BACKOFF_MOST)


class Parent:
    """Runs `count` workers until `stop`. `command` is a worker's command line without `link`.

    `drain_bound` is how many seconds workers have to end after `stop`; then they are killed.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        run: str,
        drain_bound: float,
    ) -> None:
        self._drain_bound = drain_bound
        self._stopping = asyncio.Event()
        self._status = 0
        self._view: Any = None
        self._is_draining = False

        def command_of(slot: Slot, link: int) -> Sequence[str]:
            worker = Worker(slot.number, count, link, run, is_replacement=slot.has_served)
            return (*command, "--internal-worker", render_worker(worker))

        self.slots = tuple(
            Slot(
                number,
                command_of,
                environment,
                on_change=self._publish,
                on_note=self._noted,
                answer=self._answer,
            )
            for number in range(1, count + 1)
        )

    async def run(self) -> int:
        """Run the workers to the end of all; return the exit status of the node.

        That of a worker that could not start, else the first that is not 0 after `stop`.
        """
        keeping = {
            asyncio.create_task(self._keep(slot), name=f"worker {slot.number}")
            for slot in self.slots
        }
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait({stopping, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _, late = await asyncio.wait(keeping, timeout=self._drain_bound)
        if late:
            log.error("workers have not ended in time: they are killed")
            self._signal_all(signal.SIGKILL)
            await asyncio.wait(late)
        for task in keeping:
            task.result()
        return self._status

    def stop(self) -> None:
        """Have all workers drain and end; a second time, end at once."""
        self._stopping.set()
        self._signal_all(signal.SIGTERM)

    def hang_up(self) -> None:
        """Pass SIGHUP on."""
        self._signal_all(signal.SIGHUP)

    def _signal_all(self, number: int) -> None:
        for slot in self.slots:
            slot.send_signal(number)

    async def _keep(self, slot: Slot) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await slot.run()
            if self._stopping.is_set():
                self._note_status(status)
                return
            if status > 0 and not slot.has_served:
                # It said why; the others cannot start either, or are of no use without it.
                self._note_status(status)
                self.stop()
                return
            failures = 1 if time.monotonic() - began > _STEADY else failures + 1
            pause = backoff(failures)
            log.error(
                "worker ended: it is started again",
                # As text, or the lines of several workers pass for one that repeats.
                extra={"which": f"worker {slot.number} {how_ended(status)}", "pause": pause},
            )
            await self._pause(pause)

    def _note_status(self, status: int) -> None:
        if status and not self._status:
            # As a shell tells a signal.
            self._status = status if status > 0 else 128 - status

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    # What workers tell each other

    def _publish(self) -> None:
        told = [slot.describe() for slot in self.slots]
        for slot in self.slots:
            slot.tell("workers", told)

    def _noted(self, slot: Slot, kind: str, body: Any) -> None:
        if kind == "hello":
            self._greet(slot)
        elif kind == "view":
            self._view = body
            for other in self.slots[1:]:
                other.tell("view", body)
        elif kind == "drain bound":
            # As the configuration in force has it, which may have been reloaded.
            self._drain_bound = float(body)
        elif kind == "calls":
            self.slots[0].tell("calls", body)
        elif kind == "drain":
            self._is_draining = True
            for other in self.slots:
                if other is not slot:
                    other.tell("drain", None)

    def _greet(self, slot: Slot) -> None:
        slot.tell("workers", [one.describe() for one in self.slots])
        if self._is_draining:
            slot.tell("drain", None)
        if self._view is not None and slot is not self.slots[0]:
            slot.tell("view", self._view)

    async def _answer(self, kind: str, body: Any) -> Any:
        if kind == "node metrics":
            return await self.metrics()
        if kind in _FIRST_KNOWS:
            return await self.slots[0].ask(kind, body, _ASK_BOUND)
        raise NoAnswerError(f"nobody here knows `{kind}`")

    async def metrics(self) -> Families:
        """Return the metrics of all workers as one, within `SCRAPE_BOUND`.

        Of a worker that does not answer they are the last that it told.
        """
        found = await asyncio.gather(*(slot.families(SCRAPE_BOUND) for slot in self.slots))
        # Those that answer go first: of what only one can tell, theirs holds.
        answered = [families for is_new, families in found if is_new]
        others = [families for is_new, families in found if not is_new]
        ended: Families = []
        for slot in self.slots:
            ended = retire(ended, slot.ended)
        return merge([*answered, *others], ended)
