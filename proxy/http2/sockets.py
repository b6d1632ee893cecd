"""What the system is to do with the sockets of connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

# Connections that the system holds until they are accepted, if it may hold as many. When a node is
# back all its callers come at once, and whom it has no room for tries again after a second.
BACKLOG: Final = 4096


def send_at_once(transport: asyncio.BaseTransport) -> None:
    """Have the system send what is written without waiting for more.

    asyncio does so only for sockets that were made with TCP's number as their protocol, and one
    that listens mostly was not. What follows a message then waits until the peer has acknowledged
    it, which it puts off for 40 ms.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
