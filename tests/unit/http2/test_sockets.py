"""The sockets that calls come over: what is written to them goes out at once."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from proxy.http2.server import Server, ServerLimits
from proxy.server.listening import listening_sockets, local_listener
from tests.support.waiting import until


async def served_over(server: Server, listener: socket.socket) -> tuple[int, bool]:
    """Return the family of a connection to a listener, and whether it sends at once."""
    await server.open([listener])
    with socket.socket(listener.family, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        await until(lambda: bool(server.connections))
        (connection,) = server.connections
        served = connection.transport.get_extra_info("socket")
        if served.family is socket.AF_UNIX:
            return served.family, True
        return served.family, bool(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_nothing_that_is_written_waits_for_more(host: str) -> None:
    server = Server(ServerLimits(message=1024))
    listener, *_ = listening_sockets(host, 0)
    try:
        assert await served_over(server, listener) == (listener.family, True)
    finally:
        await server.stop(None)


async def test_a_socket_of_this_machine_is_served_as_well(tmp_path: Path) -> None:
    server = Server(ServerLimits(message=1024))
    try:
        listener = local_listener(f"{tmp_path}/socket")
        assert await served_over(server, listener) == (socket.AF_UNIX, True)
    finally:
        await server.stop(None)
