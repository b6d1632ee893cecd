"""Handshakes in an event loop, on the socket itself.

The event loop's own TLS does not send the alert of a handshake that fails, so that the peer would
not learn why. OpenSSL does, when it is let to the socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl


async def ready(sock: socket.socket, *, to_write: bool = False) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    is_ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not is_ready.done():
            is_ready.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    )
    add(sock, tell)
    try:
        await is_ready
    finally:
        remove(sock)


async def handshake(tls: ssl.SSLSocket) -> None:
    """Do the handshake of a socket that does not block. Raises what OpenSSL found wrong."""
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await ready(tls)
        except ssl.SSLWantWriteError:
            await ready(tls, to_write=True)
        else:
            return
