"""The port that workers share, and nobody else."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing

import pytest

from proxy.errors import Io
from proxy.server.listening import listening_sockets
from proxy.workers.ports import reserve


def opened(stack: ExitStack, sockets: tuple[socket.socket, ...]) -> tuple[socket.socket, ...]:
    for one in sockets:
        stack.enter_context(closing(one))
    return sockets


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_reserved_port_can_be_listened_on_by_several(host: str) -> None:
    with ExitStack() as stack:
        (first, *_) = opened(stack, reserve(host, 0))
        port = first.getsockname()[1]
        assert port > 0
        for _ in range(2):
            listening = opened(stack, listening_sockets(host, port, is_shared=True))
            assert {one.getsockname()[1] for one in listening} == {port}


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_port_that_somebody_listens_on_is_refused(is_shared: bool) -> None:
    with ExitStack() as stack:
        (other,) = opened(stack, listening_sockets("127.0.0.1", 0, is_shared=is_shared))
        port = other.getsockname()[1]
        with pytest.raises(Io, match=f":{port} for gRPC \\(Address already in use\\):"):
            reserve("127.0.0.1", port)


def test_a_port_that_was_used_a_moment_ago_is_free() -> None:
    with ExitStack() as stack:
        (held,) = opened(stack, reserve("127.0.0.1", 0))
        port = held.getsockname()[1]
    with ExitStack() as stack:
        assert opened(stack, reserve("127.0.0.1", port))[0].getsockname()[1] == port


def test_an_address_that_is_not_of_this_host_is_refused() -> None:
    with pytest.raises(Io, match="is `listen_address` one of this host"):
        reserve("192.0.2.1", 0)
