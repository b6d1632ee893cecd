"""The way into a running node for whoever operates it: a local socket in its `data_dir`.

Nobody on the network reaches it, and on the host only the node's user and root do. A node listens
on a socket of its own, so that several processes may share the directory; the first line that it
sends says who it is. It understands one command, `drain`, and answers with a line for each step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from proxy.server.control_protocol import (
    DRAIN,
    PREFIX,
    SUFFIX,
    DrainState,
    address_of,
    sockets_in,
)
from proxy.server.drain import Drain, Progress

log = logging.getLogger(__name__)

# Seconds between two lines of progress when nothing changes.
PAUSE: Final = 0.5
_COMMAND_BOUND: Final = 5.0
_FAREWELL: Final = 1.0
_PEER: Final = struct.Struct("3i")


class ControlSocket:
    """Listens from `open` to `close`. A node that cannot listen serves all the same, and warns."""

    def __init__(self, data_dir: str, node_id: str, role: str, drain: Drain) -> None:
        self._data_dir = Path(data_dir)
        self._drain = drain
        self._hello = {"node_id": node_id, "role": role, "pid": os.getpid()}
        name = re.sub(r"[^A-Za-z0-9.-]", "_", node_id)[:40]
        self._stem = f"{PREFIX}{name}-"
        self._path: Path | None = None
        self._made_directory = False
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. Idempotent."""
        if self._server is not None:
            return
        try:
            bound = self._bind()
        except OSError as error:
            log.warning(
                "`metastore-proxy drain` cannot reach this node: set `data_dir` to a directory "
                "that it can write to",
                extra={
                    "data_dir": str(self._data_dir.absolute()),
                    "reason": error.strerror or str(error),
                },
            )
            return
        self._server = await asyncio.start_unix_server(self._visit, sock=bound)

    def _bind(self) -> socket.socket:
        if not self._data_dir.exists():
            self._data_dir.mkdir()
            self._made_directory = True
        self._remove_leftovers()
        path = self._data_dir / f"{self._stem}{os.getpid()}-{token_hex(3)}{SUFFIX}"
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address_of(path) as address:
                bound.bind(address)
            # Before it listens, so that nobody else can have connected.
            path.chmod(0o600)
        except BaseException:
            bound.close()
            raise
        self._path = path
        return bound

    def _remove_leftovers(self) -> None:
        """Remove what earlier runs of this node left behind that were killed."""
        for path in sockets_in(self._data_dir):
            if path.name.startswith(self._stem) and is_dead(path):
                path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Let those who wait read the end, then listen no more. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._visits:
            await asyncio.wait(self._visits, timeout=_FAREWELL)
        visits = tuple(self._visits)
        for visit in visits:
            visit.cancel()
        if visits:
            await asyncio.wait(visits)
        with suppress(OSError):
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            if self._made_directory:
                # Only an empty one goes.
                self._data_dir.rmdir()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._visits.add(task)
            task.add_done_callback(self._visits.discard)
        try:
            if _is_allowed(writer.get_extra_info("socket")):
                await self._talk(reader, writer)
        except OSError as error:
            log.debug("control connection lost", extra={"error": str(error)})
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, self._hello)
        try:
            async with asyncio.timeout(_COMMAND_BOUND):
                command = await reader.readline()
        except (TimeoutError, ValueError):
            return
        if command != DRAIN:
            return
        if self._drain.state is DrainState.SERVING:
            log.info("drain asked for by `metastore-proxy drain`")
        self._drain.begin()
        await self._follow(writer)

    async def _follow(self, writer: asyncio.StreamWriter) -> None:
        found = self._drain.progress
        while True:
            await self._send(writer, _fields(found))
            if found.state in (DrainState.DRAINED, DrainState.OVERDUE):
                return
            found = await self._drain.changed(PAUSE)

    async def _send(self, writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
        writer.write(json.dumps(line).encode() + b"\n")
        await writer.drain()


def _fields(progress: Progress) -> dict[str, Any]:
    return {
        "state": progress.state.value,
        "seconds": round(progress.seconds, 3),
        "limit": progress.limit,
        "in_flight": progress.in_flight,
        "late": progress.late,
    }


def is_dead(path: Path) -> bool:
    """Tell whether nobody listens at a socket any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.setblocking(False)
        try:
            with address_of(path) as address:
                probe.connect(address)
        except ConnectionRefusedError:
            return True
    return False


def _is_allowed(sock: socket.socket) -> bool:
    """Tell whether the other end is this user or root; the file's mode says so as well."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _PEER.size))
    return uid in (os.getuid(), 0)
