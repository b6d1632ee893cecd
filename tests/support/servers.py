"""Ending the asyncio servers of tests without a leak."""

from __future__ import annotations

import asyncio


async def end_server(server: asyncio.Server) -> None:
    """Accept no more, and close once the connections that were just accepted have a transport.

    Python 3.11 forgets a connection whose transport is made after its server was closed: it is
    never closed, and the garbage collector complains during some later test.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(3):
        await asyncio.sleep(0)
    server.close()
