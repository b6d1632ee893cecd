"""Connections to each worker of a backend: which there are, and which one a call takes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from random import Random
from typing import Any

import grpc
import pytest

from proxy.client.lanes import Lanes
from tests.support.waiting import until


class Channel:
    """As much of a channel as lanes ask for."""

    def __init__(self) -> None:
        self.state = grpc.ChannelConnectivity.READY
        self.is_closed = False

    def get_state(self) -> grpc.ChannelConnectivity:
        return self.state

    async def close(self) -> None:
        self.is_closed = True


class Backend:
    """Connections lead to workers in the order of `answers`, then to none."""

    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers
        self.made: list[Channel] = []
        self.retired: list[Channel] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.lanes = Lanes(
            make=self._make, ask=self._ask, retire=self._retire, start=self._start, rng=Random(1)
        )

    def _make(self) -> Any:
        self.made.append(Channel())
        return self.made[-1]

    async def _ask(self, _channel: Any) -> int | None:
        return self.answers.pop(0) if self.answers else None

    def _retire(self, channel: Any, _calls: Collection[Any]) -> None:
        self.retired.append(channel)

    def _start(self, work: Coroutine[object, object, None], what: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work, name=what))
        return self.tasks[-1]

    async def has(self, *workers: int) -> None:
        """Wait until there are lanes to exactly these."""
        await until(lambda: self.lanes.workers == set(workers), lambda: self.lanes.workers)

    async def __aenter__(self) -> Backend:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)


async def test_each_worker_gets_one_connection() -> None:
    # The main connection leads to worker 2; one attempt fails, and some lead where one is already.
    async with Backend([2, 1, 1, None, 2, 3]) as backend:
        backend.lanes.note(2, 3)
        await backend.has(1, 3)
        assert [channel.is_closed for channel in backend.made] == [
            *(True, False, True, True, True, False)
        ]


@pytest.mark.parametrize(("worker", "workers"), [(0, 0), (1, 1)])
async def test_a_backend_of_one_process_has_no_lanes(worker: int, workers: int) -> None:
    async with Backend([1]) as backend:
        backend.lanes.note(worker, workers)
        assert backend.tasks == []
        assert backend.lanes.pick(5) is None


async def test_a_call_goes_where_fewest_are_in_flight() -> None:
    async with Backend([2]) as backend:
        lanes = backend.lanes
        lanes.note(1, 2)
        await backend.has(2)
        picked = lanes.pick(3)
        assert picked is not None
        calls: list[Any] = [object(), object(), object()]
        picked.calls.update(calls)
        # Three there, and one of four on the main connection.
        assert lanes.pick(4) is None
        assert lanes.pick(9) is picked
        backend.made[0].state = grpc.ChannelConnectivity.IDLE
        assert lanes.pick(9) is None


async def test_a_lane_that_broke_is_told_from_the_main_connection_and_made_anew() -> None:
    async with Backend([2, 2]) as backend:
        lanes = backend.lanes
        lanes.note(1, 2)
        await backend.has(2)
        assert not lanes.has_lost_one()
        backend.made[0].state = grpc.ChannelConnectivity.IDLE
        assert lanes.has_lost_one()
        # All calls that broke with it ask, one after the other.
        assert lanes.has_lost_one()
        await backend.has(2)
        assert (len(backend.made), backend.retired) == (2, [backend.made[0]])


async def test_lanes_follow_the_main_connection_to_another_worker() -> None:
    async with Backend([2, 1]) as backend:
        backend.lanes.note(1, 2)
        await backend.has(2)
        backend.lanes.note(2, 2)
        await backend.has(1)
        assert backend.retired == [backend.made[0]]


async def test_new_files_mean_new_lanes_and_one_process_none() -> None:
    async with Backend([2, 2]) as backend:
        backend.lanes.note(1, 2)
        await backend.has(2)
        backend.lanes.renew()
        assert backend.lanes.workers == set()
        await backend.has(2)
        backend.lanes.note(0, 0)
        await backend.has()
        assert backend.retired == backend.made
        await asyncio.wait(backend.tasks)
