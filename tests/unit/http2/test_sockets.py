"""The sockets that calls come over, and those that listen for them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from proxy.http2.server import Server, ServerLimits
from proxy.server.listening import listening_sockets, local_listener
from tests.support.waiting import until

# As many as a small limit of open files allows for, and the system holds.
CALLERS = min(300, int(Path("/proc/sys/net/core/somaxconn").read_text()))


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


@pytest.mark.parametrize("is_local", [False, True])
async def test_the_callers_of_a_node_may_all_come_at_once(tmp_path: Path, is_local: bool) -> None:
    server = Server(ServerLimits(message=1024))
    listener = (
        local_listener(f"{tmp_path}/socket") if is_local else listening_sockets("127.0.0.1", 0)[0]
    )
    callers = [socket.socket(listener.family, socket.SOCK_STREAM) for _ in range(CALLERS)]
    try:
        await server.open([listener])
        # Nothing is accepted meanwhile: the event loop waits as well.
        for caller in callers:
            caller.settimeout(0.5)
            caller.connect(listener.getsockname())
        await until(lambda: len(server.connections) == CALLERS)
    finally:
        for caller in callers:
            caller.close()
        await server.stop(None)
