"""Sending a read to a second backend when the first takes long; whoever answers first counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from proxy.client.answers import Answer
from proxy.client.connection import Method, Q
from proxy.client.events import CallHedged
from proxy.client.wire import Failure, is_backend_failure
from proxy.errors import Code

if TYPE_CHECKING:
    from proxy.client.attempts import Attempt
    from proxy.client.failover import Failover

R = TypeVar("R")


async def race(
    failover: Failover, attempt: Attempt, method: Method[Q, R], request: Q, delay: float
) -> tuple[Attempt, Answer[R] | Failure]:
    """Make an attempt, and a second one beside it after `delay` seconds without an answer.

    Returns the first answer and cancels the other attempt. A failure of the backend counts only
    when the other has failed too; the earlier is noted. Cancelling this cancels both.
    """
    tasks = {_start(failover, attempt, method, request): attempt}
    try:
        done, _ = await asyncio.wait(tasks, timeout=delay)
        second = None if done else failover.second_attempt(attempt)
        if second is not None:
            backend = second.choice.backend.address
            failover.emit(CallHedged(second.call.rpc.name, backend))
            tasks[_start(failover, second, method, request)] = second
        while True:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            made, found = tasks.pop(task), task.result()
            if isinstance(found, Answer) or not tasks or not is_backend_failure(found):
                break
            failover.note_failed(made, found)
    except BaseException:
        await _end(failover, tasks)
        raise
    try:
        await _end(failover, tasks)
    except asyncio.CancelledError:
        # Nobody is left to take note of what was found.
        failover.end(made, Code.CANCELLED)
        raise
    return made, found


def _start(
    failover: Failover, attempt: Attempt, method: Method[Q, R], request: Q
) -> asyncio.Task[Answer[R] | Failure]:
    return asyncio.create_task(
        failover.send(attempt, method, request), name="metastore-client hedged read"
    )


async def _end(failover: Failover, tasks: dict[asyncio.Task[Answer[R] | Failure], Attempt]) -> None:
    for task, attempt in tasks.items():
        task.cancel()
        # Before the wait, which may itself be cancelled.
        failover.end(attempt, Code.CANCELLED)
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            # Seen here: an error of the attempt that lost is nobody's.
            task.exception()
