"""The TLS port of a node: takes connections, judges them, and says of each refusal why.

TLS ends here and not in the server, which would keep the reason of a failed handshake to itself:
neither the log nor the client would learn it. Behind it the gRPC or HTTP server listens on a local
socket, in a directory that nobody else may enter.

Facts: as in Quickwit at most 256 handshakes are under way and each has 10 s; gRPC clients offer the
protocol `h2`. Ours: one too many ends the oldest, so that clients that dawdle on purpose hold up
nobody who does not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from proxy import errors
from proxy.server.listening import listening_sockets
from proxy.server.tls_bridge import LINGER, bridge, linger, shared_buffer
from proxy.tls import Cause, Certificate, Kind, server_sees
from proxy.tls.handshake import handshake, ready
from proxy.tls.source import TlsSource

log = logging.getLogger(__name__)

HANDSHAKES: Final = 256
HANDSHAKE_TIMEOUT: Final = 10.0
# Connections that are accepted before others get their turn, and the pause when that fails.
_AT_ONCE: Final = 64
_ACCEPT_PAUSE: Final = 0.5
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# The first byte of every TLS connection.
_TLS: Final = 0x16
# Where a directory for local sockets can be made; the second also where the root is read-only.
_PLACES: Final = (None, "/dev/shm", "/run")  # noqa: S108 - a directory of our own is made there
# The bytes that the path of a local socket may have on every system: 107 on Linux, 103 elsewhere.
_LONGEST: Final = 103

# What clients in plain text read. One of gRPC would take an HTTP/2 answer for a connection, and
# make it again and again; this one ends its attempt.
_HTTP_TEXT: Final = b"this port speaks TLS\n"
PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_HTTP_TEXT), _HTTP_TEXT)
)


class LocalSocket:
    """The path of a local socket in a directory that only this user may enter."""

    def __init__(self) -> None:
        failures: list[str] = []
        for place in _PLACES:
            try:
                self._directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-tls-", dir=place))
            except OSError as error:
                failures.append(error.strerror or type(error).__name__)
                continue
            self.path = str(self._directory / "socket")
            if len(os.fsencode(self.path)) <= _LONGEST:
                return
            self.remove()
            failures.append(f"a path may have {_LONGEST} bytes")
        raise errors.Io(
            f"cannot make a directory for a local socket ({failures[0].lower()}): "
            "set TMPDIR to a directory that can be written, with a short path"
        )

    def remove(self) -> None:
        """Remove the directory and what is in it. Idempotent."""
        shutil.rmtree(self._directory, ignore_errors=True)


class TlsFront:
    """Serves TLS on a listening socket, and passes the bytes on to a local socket.

    `name` is what the log calls the port. A change of the source's material counts from the next
    connection on; those there are keep what they agreed on. `on_refusal` counts.
    """

    def __init__(
        self,
        name: str,
        source: TlsSource,
        *,
        on_refusal: Callable[[Kind], None],
    ) -> None:
        self._name = name
        self._source = source
        self._on_refusal = on_refusal
        self._local: LocalSocket | None = None
        self._listeners: tuple[socket.socket, ...] = ()
        # Those that are not admitted yet, the oldest first.
        self._pending: dict[asyncio.Timeout, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._buffer = shared_buffer()

    def bind(self, host: str, port: int, *, is_shared: bool = False) -> tuple[int, str]:
        """Bind the port; return its number, and the path where the server behind is to listen.

        `OSError` when it cannot be bound, `Io` when no local socket can be made. Connections wait
        until `open`.
        """
        self._listeners = listening_sockets(host, port, is_shared=is_shared)
        self._local = LocalSocket()
        return int(self._listeners[0].getsockname()[1]), self._local.path

    def open(self) -> None:
        """Serve the connections that arrive."""
        for listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    @property
    def certificate(self) -> Certificate | None:
        """What the port presents now."""
        return self._source.material.certificate

    @property
    def local_path(self) -> str:
        """Where the server behind listens; empty while the port is not bound."""
        return "" if self._local is None else self._local.path

    @property
    def connections(self) -> int:
        """How many there are, with those in their handshake."""
        return len(self._tasks)

    def refuse(self) -> None:
        """Take no new connections. Idempotent."""
        listeners, self._listeners = self._listeners, ()
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def close(self, timeout: float = LINGER) -> None:
        """Give the connections `timeout` seconds to end by themselves, then cut them.

        Idempotent.
        """
        self.refuse()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._local is not None:
            self._local.remove()
            self._local = None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._rest(listener, error)
                return
            task = asyncio.create_task(
                self._serve(sock, str(address[0])), name=f"{self._name} connection"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Accept nothing for a moment: the next try would fail at once, again and again."""
        log.error("cannot accept connections", extra={"port": self._name, "error": error.strerror})
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def resume() -> None:
            if listener in self._listeners:
                loop.add_reader(listener, self._accept, listener)

        loop.call_later(_ACCEPT_PAUSE, resume)

    async def _serve(self, sock: socket.socket, host: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            tls = await self._admit(sock, host)
            if tls is not None:
                with tls:
                    await self._carry(tls, host)
        except OSError as error:
            log.debug("connection lost", extra={"port": self._name, "error": str(error)})
        finally:
            # Does nothing once TLS has taken the socket over.
            sock.close()

    async def _admit(self, sock: socket.socket, host: str) -> ssl.SSLSocket | None:
        """Return the connection after its handshake, or None when it is refused."""
        context = self._source.material.server
        if context is None:
            raise RuntimeError(f"{self._source.files.section} has no certificate")
        async with self._in_handshake():
            await ready(sock)
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            # Somebody has looked whether the port is open.
            return None
        if first[0] != _TLS:
            await self._answer_plain(sock, host)
            return None
        tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            async with self._in_handshake():
                await handshake(tls)
        except ssl.SSLZeroReturnError:
            # Somebody has looked whether this port speaks TLS, and said goodbye.
            tls.close()
            return None
        except OSError as error:
            self._refused(server_sees(error, self._source.files.section, self._own_names), host)
            await self._leave(tls)
            return None
        except BaseException:
            tls.close()
            raise
        return tls

    @asynccontextmanager
    async def _in_handshake(self) -> AsyncIterator[None]:
        """Raise `TimeoutError` after the time there is, or when there are too many after this."""
        while len(self._pending) >= HANDSHAKES:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(HANDSHAKE_TIMEOUT) as bound:
            self._pending[bound] = None
            try:
                yield
            finally:
                self._pending.pop(bound, None)

    async def _answer_plain(self, sock: socket.socket, host: str) -> None:
        self._refused(
            Cause(Kind.PLAIN_TEXT, "the client speaks plain text, and this port speaks TLS"), host
        )
        with suppress(OSError):
            sock.send(PLAIN_ANSWER)
        await linger(sock)

    async def _leave(self, tls: ssl.SSLSocket) -> None:
        """Close a connection so that the alert, which was sent already, is read."""
        with socket.socket(fileno=tls.detach()) as raw:
            raw.setblocking(False)
            await linger(raw)

    async def _carry(self, tls: ssl.SSLSocket, host: str) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner:
            inner.setblocking(False)
            try:
                await loop.sock_connect(inner, self.local_path)
            except OSError:
                # The server behind has closed: so does the port.
                return
            received = await bridge(tls, inner, self._buffer)
        if received == 0 and self._listeners:
            text = (
                "the client left right after the handshake: it may have found that this node's "
                f"certificate ({self._own_names}) is not for the address that it connected to"
            )
            self._refused(Cause(Kind.BROKEN_OFF, text), host)
        await self._leave(tls)

    @property
    def _own_names(self) -> str:
        return "" if self.certificate is None else f"for {self.certificate.names_text}"

    def _refused(self, cause: Cause, host: str) -> None:
        self._on_refusal(cause.kind)
        log.warning(
            "TLS connection refused",
            extra={"port": self._name, "client": host, "reason": cause.text},
        )
