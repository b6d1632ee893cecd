"""One backend's connection: what its health watch says, and who may overrule it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc
import pytest

from proxy.client.connection import Connection
from proxy.client.options import ClientOptions
from proxy.routing.members import BackendState
from tests.support.fake_node import SERVER_OPTIONS, FakeNode
from tests.support.waiting import until

SERVING, NOT_SERVING, DOWN = BackendState.SERVING, BackendState.NOT_SERVING, BackendState.DOWN


class States(list[BackendState]):
    """Records what a connection tells, without repeats."""

    def __call__(self, _address: str, state: BackendState, _reason: str) -> None:
        if not self or self[-1] is not state:
            self.append(state)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], tuple[Connection, States]]]:
    made: list[Connection] = []

    def make(address: str) -> tuple[Connection, States]:
        states = States()
        connection = Connection(address, states, options=ClientOptions(), rng=Random(1))
        connection.open()
        made.append(connection)
        return connection, states

    yield make
    for connection in made:
        await connection.close()


Connect = Callable[[str], tuple[Connection, States]]


async def test_states_follow_the_health_service(connect: Connect) -> None:
    async with FakeNode("n") as node:
        _, states = connect(node.address)
        await until(lambda: states == [SERVING])
        await node.show(False)
        await until(lambda: states == [SERVING, NOT_SERVING])
        await node.stop()
        await until(lambda: states == [SERVING, NOT_SERVING, DOWN])
        node.is_serving = True
        await node.start()
        await until(lambda: states == [SERVING, NOT_SERVING, DOWN, SERVING])


async def test_a_refused_connection_is_down_at_once_and_found_later(connect: Connect) -> None:
    async with FakeNode("n") as node:
        await node.stop()
        connection, states = connect(node.address)
        await until(lambda: states == [DOWN])
        assert connection.epoch == 0
        await node.start()
        await until(lambda: states == [DOWN, SERVING])
        assert connection.epoch == 1


async def test_a_dead_backend_is_down_until_the_watch_starts_anew(connect: Connect) -> None:
    async with FakeNode("n") as node:
        connection, states = connect(node.address)
        await until(lambda: states == [SERVING])
        connection.report_dead(connection.epoch, "a call found it dead")
        assert states == [SERVING, DOWN]
        connection.report_dead(connection.epoch, "another call did")
        await until(lambda: states == [SERVING, DOWN, SERVING])
        assert connection.epoch == 2


async def test_a_late_failure_says_nothing_about_a_new_connection(connect: Connect) -> None:
    async with FakeNode("n") as node:
        connection, states = connect(node.address)
        await until(lambda: states == [SERVING])
        early = connection.epoch
        await node.stop()
        await node.start()
        await until(lambda: states == [SERVING, DOWN, SERVING])
        connection.report_dead(early, "a call from before the restart")
        assert states == [SERVING, DOWN, SERVING]


@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x08\x00", b"\x08\x03", b"\x08\x63"])
async def test_a_health_answer_that_is_not_serving_is_not_serving(
    connect: Connect, raw: bytes
) -> None:
    async def watch(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield raw
        await asyncio.Event().wait()

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_stream_rpc_method_handler(watch)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _, states = connect(f"127.0.0.1:{port}")
    await until(lambda: states == [NOT_SERVING])
    await server.stop(None)


async def test_a_watch_that_ends_again_and_again_is_not_a_busy_loop(connect: Connect) -> None:
    watched = 0

    async def watch(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal watched
        watched += 1
        yield b"\x08\x01"

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_stream_rpc_method_handler(watch)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    started = asyncio.get_running_loop().time()
    _, states = connect(f"127.0.0.1:{port}")
    await until(lambda: states[:4] == [SERVING, DOWN, SERVING, DOWN] and watched >= 4)
    # The waits before the second to fourth watch are at least half of 0.1, 0.2 and 0.4 s.
    assert asyncio.get_running_loop().time() - started > 0.3
    await server.stop(None)
