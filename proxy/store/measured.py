"""What the call under way spends on statements, for its log line and its trace."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Protocol, Self

import asyncpg

from proxy import tracing
from proxy.calls import CallRecord, current_call
from proxy.store.queries import name_of
from proxy.tracing import Span


class Statement(Protocol):
    """A statement of a call, while it runs."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def got(self, rows: Sequence[object]) -> None:
        """Take note of rows, and that the database has nothing to do until `resume`."""

    def resume(self) -> None:
        """Take note that the database is waited for again."""


class _Measured:
    __slots__ = ("_call", "_rows", "_running", "_seconds", "_since", "_span", "_sql")

    def __init__(self, call: CallRecord, sql: str) -> None:
        self._call = call
        self._sql = sql
        self._span: Span | None = None
        self._rows = 0
        self._seconds = 0.0
        self._running = True

    def __enter__(self) -> Self:
        tracer = tracing.active()
        if tracer is not None:
            self._span = tracer.query(name_of(self._sql))
        self._since = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pause()
        call = self._call
        call.statements += 1
        call.rows += self._rows
        call.sql_time += self._seconds
        if self._span is not None:
            # A caller that reads no further is no error of the statement.
            is_error = kind is not None and kind is not GeneratorExit
            self._span.end(
                kind.__name__ if is_error and kind is not None else "",
                {"db.response.returned_rows": self._rows, "metastore.sql_seconds": self._seconds},
            )

    def _pause(self) -> None:
        if self._running:
            self._running = False
            self._seconds += perf_counter() - self._since

    def got(self, rows: Sequence[object]) -> None:
        self._rows += len(rows)
        self._pause()

    def resume(self) -> None:
        self._running = True
        self._since = perf_counter()


class _Unmeasured:
    """What stands in for a statement that runs for no call: probes, migrations, start-up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def got(self, rows: Sequence[object]) -> None:
        pass

    def resume(self) -> None:
        pass


_UNMEASURED: Final = _Unmeasured()


def statement(sql: str) -> Statement:
    """Return what measures a statement of the call under way, from `with` to its end."""
    call = current_call.get()
    return _UNMEASURED if call is None else _Measured(call, sql)


class MeasuredConnection(asyncpg.Connection):
    """A connection whose statements are measured; a cursor is measured by whoever reads it."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As the driver's."""
        with statement(query):
            return await super().execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        """As the driver's."""
        with statement(query) as running:
            rows: list[Any] = await super().fetch(query, *args, **options)
            running.got(rows)
            return rows

    async def fetch_some(self, limit: int, query: str, *args: Any) -> list[Any]:
        """Return the first rows, at most `limit` of them, in one round trip.

        Unlike with a LIMIT, the plan is the one for all rows.
        """
        with statement(query) as running:
            # As the driver's `fetchrow` does, with a limit of 1; it gives no other name to it.
            driver: Any = self
            rows: list[Any] = await driver._execute(query, args, limit, None)
            running.got(rows)
            return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's."""
        with statement(query) as running:
            row = await super().fetchrow(query, *args, **options)
            running.got(() if row is None else (row,))
            return row

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's."""
        with statement(query):
            return await super().fetchval(query, *args, **options)
