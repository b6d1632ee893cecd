"""What handlers do, and what their callers see: each call ends once, and never inside a message."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.faults import StreamEndedError
from proxy.http2.frames import ErrorCode
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import HELLO, MemoryServer, memory_server, message

Code = grpc.StatusCode
WIDE = frames.window_update(0, 10**8) + frames.settings({4: 10**8})
# More than the windows of a peer that opens none, and not a multiple of anything.
LARGE = bytes(range(251)) * 500


def ends(served: MemoryServer, stream: int = 1) -> int:
    """How often a stream was ended: by its last frame, or by a reset."""
    resets = served.log.of(frames.RST_STREAM, stream)
    return len(resets) + sum(frame.is_end for frame in served.log.frames if frame.stream == stream)


async def end_well(served: MemoryServer) -> None:
    served.send(WIDE)
    await served.settle()


async def give_up(_request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    try:
        async with asyncio.timeout(0):
            await context.write(LARGE)
    except TimeoutError:
        await context.abort(Code.DEADLINE_EXCEEDED, "too slow")


async def test_the_status_of_who_gives_up_comes_behind_the_rest_of_the_message() -> None:
    async with memory_server(Up=("unary_stream", give_up)) as served:
        served.send(raw.call(1, "Up"))
        await served.settle()
        sent = served.log.body(1)
        assert len(sent) == frames.DEFAULT_WINDOW
        assert not served.log.is_done(1)
        await end_well(served)
        assert served.log.body(1) == message(b"first") + message(LARGE)
        assert (served.log.status(1), ends(served)) == (4, 1)
        assert served.log.trailers(1)[b"grpc-message"] == b"too slow"
        assert not served.connection.streams


async def test_nothing_is_written_into_a_message_that_was_not_sent_whole() -> None:
    errors = []

    async def insist(_request: bytes, context: Any) -> None:
        try:
            async with asyncio.timeout(0):
                await context.write(LARGE)
        except TimeoutError:
            try:
                await context.write(b"more")
            except RuntimeError as error:
                errors.append(str(error))
                raise

    async with memory_server(Insist=("unary_stream", insist)) as served:
        served.send(raw.call(1, "Insist"))
        await served.settle()
        await end_well(served)
        assert errors == ["another message of the call has not been sent whole"]
        assert (served.log.body(1), served.log.status(1)) == (message(LARGE), 2)


async def test_two_messages_are_not_written_at_once() -> None:
    async def both(_request: bytes, context: Any) -> None:
        results = await asyncio.gather(
            context.write(LARGE), context.write(LARGE), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), RuntimeError]

    async with memory_server(Both=("unary_stream", both)) as served:
        served.send(raw.call(1, "Both"))
        await served.settle()
        await end_well(served)
        assert (served.log.body(1), served.log.status(1)) == (message(LARGE), 0)


async def test_the_end_of_another_call_is_no_end_of_this_one() -> None:
    async def forward(_request: bytes, _context: Any) -> bytes:
        raise StreamEndedError(ErrorCode.CANCEL)

    async with memory_server(Forward=forward) as served:
        served.send(raw.call(1, "Forward"))
        await served.settle()
        assert (served.log.status(1), ends(served)) == (2, 1)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_generator_left_half_way_is_ended_within_its_call(reset: bool) -> None:
    which: ContextVar[str] = ContextVar("which")
    ended: list[str] = []

    async def many(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        token = which.set("mine")
        try:
            while True:
                yield LARGE
        finally:
            ended.append(which.get())
            which.reset(token)

    async with memory_server(Many=("unary_stream", many)) as served:
        served.send(raw.call(1, "Many"))
        await served.settle()
        if reset:
            served.send(frames.rst_stream(1, ErrorCode.CANCEL))
        else:
            served.transport.abort()
        await served.settle()
        assert ended == ["mine"]
        assert not served.server._tasks


async def abort_well(_request: bytes, context: Any) -> bytes:
    await context.abort(Code.OK, "well")
    return b""


async def bad_trailers(_request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("x", "a\nb"),))
    return b"answer"


async def bad_trailers_of_failure(_request: bytes, context: Any) -> bytes:
    await context.abort(Code.NOT_FOUND, "no", (("grpc-status", "0"),))
    return b""


async def bad_head(_request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata((("X", "a"),))
    return b""


async def no_bytes(_request: bytes, _context: Any) -> Any:
    return None


async def code_and_answer(_request: bytes, context: Any) -> bytes:
    context.set_code(Code.ABORTED)
    context.set_details("set")
    return b"not sent"


async def swallow(_request: bytes, context: Any) -> bytes:
    try:
        await context.abort(Code.ABORTED, "swallowed")
    except Exception:
        return b"not sent"
    return b""


async def cancel_itself(_request: bytes, _context: Any) -> bytes:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return b""


HANDLERS: dict[str, tuple[Callable[[bytes, Any], Awaitable[bytes]], int, bytes]] = {
    "aborts with OK": (abort_well, 2, b"well"),
    "sets trailers that cannot be sent": (bad_trailers, 2, b"unexpected error"),
    "fails with trailers that cannot be sent": (bad_trailers_of_failure, 13, b"unexpected error"),
    "sends a head that cannot be sent": (bad_head, 2, b"unexpected error"),
    "answers with nothing": (no_bytes, 2, b"unexpected error"),
    "sets a code and answers": (code_and_answer, 10, b"set"),
    "swallows its end": (swallow, 10, b"swallowed"),
    "is cancelled from within": (cancel_itself, 1, b"the call was cancelled"),
}


@pytest.mark.parametrize(("handler", "code", "text"), HANDLERS.values(), ids=HANDLERS)
async def test_a_handler_that_does_odd_things_gets_one_status(
    handler: Callable[[bytes, Any], Awaitable[bytes]],
    code: int,
    text: bytes,
) -> None:
    async with memory_server(Odd=handler) as served:
        served.send(raw.call(1, "Odd"))
        await served.settle()
        assert (served.log.status(1), served.log.trailers(1)[b"grpc-message"]) == (code, text)
        assert (served.log.body(1), ends(served)) == (b"", 1)
        assert not served.connection.streams


def expire(served: MemoryServer) -> None:
    call: Any = served.connection.streams[1]
    call._expire()


# What ends a call whose handler is about to end it as well.
RIVALS: dict[str, Callable[[MemoryServer], object]] = {
    "a reset": lambda served: served.send(frames.rst_stream(1, ErrorCode.CANCEL)),
    "the deadline": expire,
    "the server's end": lambda served: served.connection.end("the end"),
    "the connection's end": lambda served: served.transport.abort(),
    "a fault": lambda served: served.send(frames.window_update(0, 0)),
}


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("answer", [b"small", LARGE])
@pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS)
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_of_two_ends_there_is_one(
    rival: Callable[[MemoryServer], object], answer: bytes, turns: int, obeys: bool
) -> None:
    go = asyncio.Event()

    async def late(_request: bytes, context: Any) -> bytes:
        try:
            await go.wait()
        except asyncio.CancelledError:
            if obeys:
                raise
            await context.send_initial_metadata((("x", "1"),))
            context.set_trailing_metadata((("x", "1"),))
        return answer

    async with memory_server(Late=late) as served:
        served.send(raw.call(1, "Late"))
        await served.settle()
        go.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        if 1 in served.connection.streams:
            rival(served)
        assert not served.connection.streams
        seen = len(served.log.frames)
        await served.settle()
        if not served.connection.is_closed:
            await end_well(served)
        assert ends(served) <= 1
        after = [frame.kind for frame in served.log.frames[seen:] if frame.stream == 1]
        assert after == []
        body = served.log.body(1)
        if served.log.fields.get(1) and b"grpc-status" in served.log.trailers(1):
            assert body in (b"", message(answer))
        assert not served.server._tasks


async def test_a_call_leaves_nothing_alive() -> None:
    calls: list[weakref.ref[Any]] = []

    async def note(request: bytes, context: Any) -> bytes:
        calls.append(weakref.ref(context))
        return request * 20_000

    async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        calls.append(weakref.ref(context))
        async for request in requests:
            yield request

    gc.collect()
    gc.disable()
    try:
        async with memory_server(
            hello=(HELLO, WIDE), Note=note, Chat=("stream_stream", chat)
        ) as served:
            served.send(raw.call(1, "Note"), raw.call(3, "Chat"))
            served.send(raw.headers(5, (b":path", b"/t.T/Chat"), (b"grpc-timeout", b"1H")))
            await served.settle()
            served.send(frames.rst_stream(5, ErrorCode.CANCEL))
            await served.settle()
            assert [served.log.status(stream) for stream in (1, 3)] == [0, 0]
            assert [call() for call in calls] == [None] * 3
    finally:
        gc.enable()


async def test_calls_do_not_share_context_variables() -> None:
    seen: ContextVar[str] = ContextVar("seen", default="nothing")
    before: list[str] = []

    async def mark(request: bytes, _context: Any) -> bytes:
        before.append(seen.get())
        seen.set(request.decode())
        await asyncio.sleep(0)
        return seen.get().encode()

    async with memory_server(Mark=mark) as served:
        for stream in (1, 3, 5):
            served.send(raw.call(stream, "Mark", b"%d" % stream))
        await served.settle()
        assert before == ["nothing"] * 3
        assert [served.log.body(stream) for stream in (1, 3, 5)] == [
            message(b"1"),
            message(b"3"),
            message(b"5"),
        ]
