"""Carrying bytes between a TLS connection and a local socket, both ways, until both are done.

The sockets are read and written directly, without a transport in between: that spares a copy of
each byte.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

# At least the largest TLS record, so that nothing decrypted stays behind in OpenSSL unseen.
_CHUNK: Final = 64 * 1024
# Chunks that one direction moves before the others get their turn.
_TURN: Final = 8
# How soon a connection is looked at again that waits for what cannot be waited for.
_RETRY: Final = 0.005
# How long a peer that was told the end has to end its side, so that it reads what was sent.
LINGER: Final = 1.0

_NOT_YET: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


async def linger(sock: socket.socket) -> None:
    """End our side of a raw connection, and read the other's until it ends too.

    A socket that is closed over unread bytes is reset, and the peer may lose what was sent last:
    the alert that tells it why.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER):
            while await loop.sock_recv(sock, _CHUNK):
                pass


class _Direction:
    """One way of a bridge. `ended` is set once, when the source ended or either side broke."""

    def __init__(self, source: socket.socket, sink: socket.socket, buffer: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._waiting = b""
        self.moved = 0
        self.is_broken = False
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        self._loop.add_reader(self._source, self._read)

    def stop(self) -> None:
        """Look at the sockets no more. They may be closed afterwards."""
        if self._source.fileno() >= 0:
            self._loop.remove_reader(self._source)
        if self._sink.fileno() >= 0:
            self._loop.remove_writer(self._sink)
        if not self.ended.done():
            self.ended.set_result(None)

    def _read(self) -> None:
        try:
            for _ in range(_TURN):
                size = self._source.recv_into(self._buffer)
                if size == 0:
                    self.stop()
                    return
                self.moved += size
                if not self._write(self._buffer[:size]):
                    self._loop.remove_reader(self._source)
                    self._loop.add_writer(self._sink, self._flush)
                    return
        except ssl.SSLWantWriteError:
            # It has to answer first, and there is no room: the other direction may be waiting on
            # this very socket, so look again instead of waiting for it.
            self._loop.call_later(_RETRY, self._read_again)
        except _NOT_YET:
            return
        except OSError:
            self._break()

    def _read_again(self) -> None:
        if not self.ended.done():
            self._read()

    def _write(self, data: memoryview) -> bool:
        """Write what there is room for, and keep the rest; tell whether all of it is written."""
        sent = 0
        try:
            while sent < len(data):
                sent += self._sink.send(data[sent:])
        except _NOT_YET:
            self._waiting = bytes(data[sent:])
            return False
        self._waiting = b""
        return True

    def _flush(self) -> None:
        try:
            if self._write(memoryview(self._waiting)):
                self._loop.remove_writer(self._sink)
                self._loop.add_reader(self._source, self._read)
        except OSError:
            self._break()

    def _break(self) -> None:
        self.is_broken = True
        self.stop()


async def bridge(tls: ssl.SSLSocket, inner: socket.socket, buffer: memoryview) -> int:
    """Carry bytes until the local side ends, or the peer breaks off; return how many came in.

    `buffer` may be shared by all bridges of an event loop. Closes neither socket.
    """
    inwards = _Direction(tls, inner, buffer)
    outwards = _Direction(inner, tls, buffer)

    def peer_ended(_: object) -> None:
        # The local side then ends its own, when it has said all.
        with suppress(OSError):
            inner.shutdown(socket.SHUT_RDWR if inwards.is_broken else socket.SHUT_WR)

    inwards.ended.add_done_callback(peer_ended)
    inwards.start()
    outwards.start()
    try:
        await outwards.ended
        if not outwards.is_broken:
            # Sends the farewell at once; that of the peer is not waited for.
            with suppress(OSError, ValueError):
                tls.unwrap()
    finally:
        inwards.stop()
        outwards.stop()
    return inwards.moved


def shared_buffer() -> memoryview:
    """Return a buffer for `bridge`."""
    return memoryview(bytearray(_CHUNK))
