"""The parent of workers: starts, passes signals on, starts again, ends with the right status."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.workers.link import Link
from proxy.workers.parent import Parent, backoff
from proxy.workers.slot import Status, how_ended
from tests.support import fake_worker
from tests.support.waiting import until


class Run:
    """A parent with fake workers."""

    def __init__(self, behaviour: str, trail: Path, drain_bound: float) -> None:
        self.trail = trail
        command = [sys.executable, "-I", fake_worker.__file__, behaviour, str(trail)]
        self.parent = Parent(2, command, os.environ, run="run", drain_bound=drain_bound)
        self.task = asyncio.create_task(self.parent.run())

    async def serve(self) -> None:
        """Wait until all workers serve."""
        slots = self.parent.slots
        await until(
            lambda: all(one.status is Status.SERVING for one in slots),
            lambda: [one.describe() for one in slots],
        )

    @property
    def lines(self) -> list[str]:
        """What the workers wrote."""
        return self.trail.read_text().split() if self.trail.exists() else []


@asynccontextmanager
async def running(behaviour: str, directory: Path, bound: float = 10.0) -> AsyncIterator[Run]:
    run = Run(behaviour, directory / "trail", bound)
    try:
        yield run
    finally:
        run.parent.stop()
        await asyncio.wait({run.task})


async def test_all_are_started_and_end_with_it(tmp_path: Path) -> None:
    async with running("serve", tmp_path) as run:
        await run.serve()
        assert sorted(run.lines) == ["1", "2"]
        run.parent.hang_up()
        await until(lambda: run.lines.count("HUP") == 2, lambda: run.lines)
        run.parent.stop()
        assert await run.task == 0
    assert [one.describe()["restarts"] for one in run.parent.slots] == [0, 0]


async def test_one_that_cannot_start_ends_the_node_with_its_status(tmp_path: Path) -> None:
    async with running("fail", tmp_path) as run:
        assert await asyncio.wait_for(run.task, 20) == 3
        assert set(run.lines) <= {"1", "2"}


async def test_one_that_ended_is_started_again(tmp_path: Path) -> None:
    async with running("once", tmp_path) as run:
        await until(
            lambda: all(one.starts > 2 for one in run.parent.slots),
            lambda: [one.describe() for one in run.parent.slots],
        )
        reasons = {one.reason for one in run.parent.slots}
        assert reasons <= {"it ended with status 5", "it is starting", ""}


async def test_what_one_told_last_is_known_although_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Link.run

    async def read_late(link: Link) -> None:
        # A parent that has much to do learns of the end before it reads what was told.
        await asyncio.sleep(0.3)
        await read(link)

    monkeypatch.setattr(Link, "run", read_late)
    async with running("once", tmp_path) as run:
        await until(
            lambda: all(one.starts > 1 for one in run.parent.slots),
            lambda: [one.describe() for one in run.parent.slots],
        )


async def test_one_that_does_not_end_is_killed_at_the_bound(tmp_path: Path) -> None:
    async with running("stubborn", tmp_path, bound=0.3) as run:
        await run.serve()
        run.parent.stop()
        assert await run.task == 128 + 9


async def test_the_bound_follows_a_configuration_that_is_reloaded(tmp_path: Path) -> None:
    async with running("slow", tmp_path, bound=0.1) as run:
        await run.serve()
        run.parent.stop()
        assert await run.task == 0


async def test_one_that_answers_nothing_is_killed_and_started_again(tmp_path: Path) -> None:
    async with running("mute", tmp_path) as run:
        for slot in run.parent.slots:
            slot.ping_interval = 0.05
        await until(
            lambda: all(one.starts > 1 for one in run.parent.slots),
            lambda: [one.describe() for one in run.parent.slots],
        )


async def test_metrics_are_those_of_all_and_wait_for_none(tmp_path: Path) -> None:
    async with running("serve", tmp_path) as run:
        await run.serve()
        assert (await run.parent.metrics())[0][5] == [["f_total", [], 2.0]]
        frozen = run.parent.slots[1]
        frozen.send_signal(19)
        began = time.monotonic()
        try:
            # The last that it told.
            assert (await run.parent.metrics())[0][5] == [["f_total", [], 2.0]]
            assert 0.9 < time.monotonic() - began < 5
        finally:
            frozen.send_signal(18)
        frozen.send_signal(9)
        await until(lambda: frozen.starts == 2, frozen.describe)
        await run.serve()
        assert (await run.parent.metrics())[0][5] == [["f_total", [], 3.0]]


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (1000, 10.0)]
)
def test_pauses_grow_to_a_bound(failures: int, seconds: float) -> None:
    assert backoff(failures) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (2, "ended with status 2"),
        (-9, "was ended by SIGKILL"),
        (-64, "was ended by SIGRTMAX"),
        (-99, "was ended by signal 99"),
    ],
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert how_ended(status) == words
