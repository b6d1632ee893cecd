"""Pings on a connection that is silent, so that one whose peer is gone is found."""

from __future__ import annotations

import asyncio

from proxy.http2.connection import Connection


class KeepAlive:
    """Pings the peer after `interval` seconds of silence; ends the connection `timeout` later.

    Anything that arrives counts as an answer. From its making until `stop`.
    """

    def __init__(self, connection: Connection, interval: float, timeout: float) -> None:
        self._connection = connection
        self._interval = interval
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._asked = 0.0
        self._timer = self._loop.call_later(interval, self._look)

    def stop(self) -> None:
        """Ask no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        idle = now - self._connection.last_read
        if idle < self._interval:
            self._timer = self._loop.call_later(self._interval - idle, self._look)
            return
        self._connection.ping()
        self._asked = now
        self._timer = self._loop.call_later(self._timeout, self._judge)

    def _judge(self) -> None:
        if self._connection.last_read < self._asked:
            self._connection.abort(f"the peer did not answer a ping within {self._timeout:g} s")
        else:
            self._look()
