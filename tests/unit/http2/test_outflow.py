"""Sending under flow control: whole, in order, in turns, and never stuck while there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2 import frames
from proxy.http2.faults import ConnectionFault, StreamEndedError, StreamFault
from proxy.http2.outflow import Outflow, SendSide
from tests.support.raw_http2 import MemoryTransport

TURN = 256 * 1024


class Flow(asyncio.Protocol):
    """An `Outflow` on a transport in memory."""

    def __init__(self, window: int = 10 * TURN) -> None:
        self.transport = MemoryTransport(self)
        self.out = Outflow(self.transport)
        self.out.window = window
        self.log = self.transport.log
        self.tasks: list[asyncio.Task[None]] = []

    def pause_writing(self) -> None:
        self.out.pause()

    def resume_writing(self) -> None:
        self.out.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        self.out.close()

    def send(self, side: SendSide, data: bytes, before: bytes = b"") -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.out.send(side, data, before))
        self.tasks.append(task)
        return task

    @property
    def order(self) -> list[int]:
        """The streams of the frames, each once per run."""
        ids = [frame.stream for frame in self.log.of(frames.DATA)]
        return [one for place, one in enumerate(ids) if place == 0 or ids[place - 1] != one]


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_fits_goes_out_at_once_between_other_frames() -> None:
    flow = Flow(window=11)
    side = SendSide(1, 10)
    assert flow.out.try_send(side, b"", (b"abc", b"def"), frames.rst_stream(1, 0))
    flow.out.flush()
    assert [(frame.kind, frame.payload[:6]) for frame in flow.log.frames] == [
        (frames.DATA, b"abcdef"),
        (frames.RST_STREAM, b"\0\0\0\0"),
    ]
    assert (side.window, flow.out.window) == (4, 5)


Change = Callable[[Flow, SendSide], object]
REFUSED: dict[str, Change] = {
    "the stream's window": lambda _, side: setattr(side, "window", 5),
    "the connection's window": lambda flow, _: setattr(flow.out, "window", 5),
    "the size of a frame": lambda flow, _: setattr(flow.out, "frame_size", 5),
    "the socket": lambda flow, _: flow.out.pause(),
    "the connection's end": lambda flow, _: flow.out.close(),
    "the stream's end": lambda _, side: side.end(StreamEndedError(8)),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_not_begun(change: Change) -> None:
    flow, side = Flow(), SendSide(1, 100)
    change(flow, side)
    windows = (side.window, flow.out.window)
    assert not flow.out.try_send(side, b"x", (b"abc", b"def"), b"y")
    assert (side.window, flow.out.window) == windows
    assert not flow.transport.written


async def test_nothing_overtakes_those_that_wait_or_were_just_woken() -> None:
    flow = Flow(window=0)
    first, second = SendSide(1, 100), SendSide(3, 100)
    flow.send(first, b"1" * 10)
    await turns()
    assert not flow.out.try_send(second, b"", (b"2", b""), b"")
    flow.out.widen(10)
    # The first is woken and has not run yet.
    assert not flow.out.try_send(second, b"", (b"2", b""), b"")
    flow.send(second, b"2" * 5)
    await turns()
    assert flow.log.body(1) == b"1" * 10
    flow.out.widen(5)
    await asyncio.gather(*flow.tasks)
    assert flow.order == [1, 3]


async def test_a_woken_one_that_cannot_go_on_stays_first() -> None:
    flow = Flow(window=0)
    sides = [SendSide(number, 1000) for number in (1, 3, 5)]
    for side in sides:
        flow.send(side, b"x" * 10)
    await turns()
    flow.out.widen(1)
    flow.out.pause()
    await turns()
    flow.out.resume()
    for _ in range(40):
        flow.out.widen(1)
        await turns(2)
    await asyncio.gather(*flow.tasks)
    assert flow.order[:3] == [1, 3, 5]
    assert [len(flow.log.body(side.stream_id)) for side in sides] == [10, 10, 10]


async def test_large_ones_take_turns() -> None:
    flow = Flow(window=100 * TURN)
    flow.transport.is_stuck = True
    for number in (1, 3, 5):
        flow.send(SendSide(number, 100 * TURN), b"%d" % number * 3 * TURN)
    await turns()
    while not all(task.done() for task in flow.tasks):
        flow.transport.take()
        await turns()
    flow.transport.take()
    assert [len(flow.log.body(number)) for number in (1, 3, 5)] == [3 * TURN] * 3
    # The first had the empty buffer to itself for two turns at most.
    assert flow.order[:4] == [1, 3, 5, 1]


async def test_a_shut_stream_does_not_hold_up_others() -> None:
    flow = Flow(window=0)
    shut, free = SendSide(1, 5), SendSide(3, 100)
    flow.send(shut, b"a" * 10)
    flow.send(free, b"b" * 10)
    await turns()
    shut.widen(-5)
    # The first is woken first, and finds its own window shut.
    flow.out.widen(100)
    await turns()
    assert flow.log.body(3) == b"b" * 10
    shut.widen(5)
    shut.widen(5)
    await asyncio.gather(*flow.tasks)
    assert flow.log.body(1) == b"a" * 10


@pytest.mark.parametrize("is_woken", [False, True])
async def test_who_is_cancelled_passes_its_turn_on(is_woken: bool) -> None:
    flow = Flow(window=0)
    first = flow.send(SendSide(1, 100), b"a" * 10)
    second = flow.send(SendSide(3, 100), b"b" * 10)
    await turns()
    if is_woken:
        flow.out.widen(10)
        first.cancel()
    else:
        first.cancel()
        flow.out.widen(10)
    await asyncio.wait_for(second, 5)
    assert (flow.order, first.cancelled()) == ([3], True)


async def test_those_that_are_cancelled_leave_nothing_behind() -> None:
    flow = Flow(window=0)
    for _ in range(50):
        task = flow.send(SendSide(1, 100), b"a")
        await turns(2)
        task.cancel()
        await turns(2)
    assert not flow.out._waiting
    assert flow.out._woken == 0


async def test_what_a_cancelled_one_has_left_is_known() -> None:
    flow, side = Flow(window=7), SendSide(1, 100)
    task = flow.send(side, b"0123456789", b"abcde")
    await turns()
    task.cancel()
    await turns()
    assert side.is_midway
    assert (flow.log.body(1), bytes(side.rest)) == (b"abcde01", b"23456789")
    early = SendSide(3, 0)
    task = flow.send(early, b"0", b"abcde")
    await turns()
    task.cancel()
    await turns()
    assert not early.is_midway


Wait = Callable[[Flow, SendSide], object]
ENDS: dict[str, Wait] = {
    "with its window shut": lambda _, side: setattr(side, "window", 0),
    "with the connection's window shut": lambda flow, _: setattr(flow.out, "window", 0),
    "with the socket full": lambda flow, _: flow.out.pause(),
}


@pytest.mark.parametrize("wait", ENDS.values(), ids=ENDS)
async def test_the_end_of_the_connection_reaches_all_that_wait(wait: Wait) -> None:
    flow = Flow()
    sides = [SendSide(number, 100) for number in (1, 3)]
    for side in sides:
        wait(flow, side)
        flow.send(side, b"x" * 50)
    await turns()
    for side in sides:
        side.end(StreamEndedError(frames.ErrorCode.CANCEL, "it is gone"))
    flow.out.close()
    results = await asyncio.wait_for(asyncio.gather(*flow.tasks, return_exceptions=True), 5)
    assert [str(error) for error in results] == ["it is gone"] * 2
    assert not flow.transport.written
    # Each has a trace of its own.
    assert results[0] is not sides[0].ended


async def test_nothing_is_sent_on_a_closed_connection() -> None:
    flow = Flow()
    flow.out.close()
    flow.out.write(b"x")
    with pytest.raises(StreamEndedError, match="closed"):
        await flow.out.send(SendSide(1, 100), b"x")
    assert not flow.transport.written


def test_windows_have_a_largest_size() -> None:
    side = SendSide(1, frames.LARGEST_WINDOW - 1)
    side.widen(1)
    with pytest.raises(StreamFault) as of_stream:
        side.widen(1)
    assert of_stream.value.code is frames.ErrorCode.FLOW_CONTROL_ERROR
    flow = Flow(window=frames.LARGEST_WINDOW - 1)
    flow.out.widen(1)
    with pytest.raises(ConnectionFault) as of_connection:
        flow.out.widen(1)
    assert of_connection.value.code is frames.ErrorCode.FLOW_CONTROL_ERROR


async def test_a_window_that_became_negative_opens_only_above_zero() -> None:
    flow, side = Flow(), SendSide(1, 10)
    side.widen(-30)
    task = flow.send(side, b"x")
    side.widen(20)
    await turns()
    assert (side.window, task.done()) == (0, False)
    side.widen(1)
    await asyncio.wait_for(task, 5)


async def test_nobody_has_to_run_for_another_of_a_closed_flow() -> None:
    flow = Flow(window=0)
    tasks = [flow.send(SendSide(number, 9), b"x") for number in (1, 3, 5)]
    await turns()
    tasks[1].cancel()
    flow.out.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(error) for error in results] == [
        StreamEndedError,
        asyncio.CancelledError,
        StreamEndedError,
    ]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("widen"), st.integers(0, 3), st.integers(1, 400_000)),
        st.tuples(st.just("shrink"), st.integers(1, 3), st.integers(1, 100_000)),
        st.tuples(st.just("take"), st.just(0), st.integers(1, 400_000)),
        st.tuples(st.just("cancel"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("turn"), st.just(0), st.integers(1, 3)),
    ),
    max_size=30,
)


@given(
    sizes=st.lists(st.integers(0, 700_000), min_size=3, max_size=3),
    windows=st.lists(st.integers(-10, 300_000), min_size=4, max_size=4),
    frame_size=st.sampled_from([16_384, 20_000, 1_000_000]),
    steps=STEPS,
)
@settings(max_examples=40, deadline=None)
def test_under_any_windows_each_message_comes_whole_and_in_order(
    sizes: list[int], windows: list[int], frame_size: int, steps: list[tuple[str, int, int]]
) -> None:
    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(drive(sizes, windows, frame_size, steps), 20))


async def drive(
    sizes: list[int], windows: list[int], frame_size: int, steps: list[tuple[str, int, int]]
) -> None:
    flow = Flow(window=max(windows[0], 0))
    flow.transport.is_stuck = True
    flow.out.frame_size = frame_size
    sides = [SendSide(2 * place + 1, windows[place + 1]) for place in range(3)]
    granted = [windows[0], *windows[1:]]
    bodies = [(b"%07d" % (place + 1)) * (size // 7) for place, size in enumerate(sizes)]
    tasks = [flow.send(side, body, b"#####") for side, body in zip(sides, bodies, strict=True)]
    cancelled: set[int] = set()
    for kind, which, amount in steps:
        if kind in {"widen", "shrink"}:
            change = amount if kind == "widen" else -amount
            granted[which] += change
            (sides[which - 1] if which else flow.out).widen(change)
        elif kind == "take":
            flow.transport.take(amount)
        elif kind == "cancel":
            cancelled.add(which - 1)
            tasks[which - 1].cancel()
        await turns(amount if kind == "turn" else 1)
        sent = [len(flow.log.body(side.stream_id)) for side in sides]
        assert sum(sent) <= max(granted[0], 0)
    for side in sides:
        side.widen(2_000_000)
    flow.out.widen(10_000_000)
    while not all(task.done() for task in tasks):
        await turns(1)
        flow.transport.take()
    flow.out.flush()
    flow.transport.take()
    for place, (side, body, task) in enumerate(zip(sides, bodies, tasks, strict=True)):
        whole = b"#####" + body
        if task.cancelled():
            assert place in cancelled
            assert whole.startswith(flow.log.body(side.stream_id))
        else:
            assert flow.log.body(side.stream_id) == whole
    assert all(len(frame.payload) <= frame_size for frame in flow.log.frames)
    assert not flow.out._waiting
    assert flow.out._woken == 0
