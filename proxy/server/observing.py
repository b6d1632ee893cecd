"""What is noted of every call that a node serves: its span, its log lines, and when it was slow.

One warning is written for a call that took longer than `proxy.slow_query_threshold`; at debug level
one line for each call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import Token
from time import perf_counter
from types import TracebackType
from typing import Final

from proxy import tracing
from proxy.calls import CallRecord, current_call
from proxy.config import NodeConfig
from proxy.http2.call import ServerCall
from proxy.routing.catalogue import RPCS, SERVICE, Rpc
from proxy.routing.consistency import REQUEST_ID
from proxy.server.filters import describe

log = logging.getLogger(__name__)

Context = ServerCall
Metadata = tuple[tuple[str, str | bytes], ...]


class CallObserver:
    """Observes the calls of one node. `slow_after` is in seconds, None for never; it may change.

    `begun` counts all calls.
    """

    def __init__(self, node_id: str = "", role: str = "", *, slow_after: float | None = None):
        self.slow_after = slow_after
        self.begun = 0
        self._attributes: Final[Mapping[str, tracing.Attributes]] = {
            name: {
                "rpc.system.name": "grpc",
                "rpc.method": f"{SERVICE}/{name}",
                "metastore.node_id": node_id,
                "metastore.role": role,
            }
            for name in RPCS
        }

    @classmethod
    def of(cls, config: NodeConfig) -> CallObserver:
        """Return the observer of a node."""
        return cls(config.node_id, config.role.value, slow_after=config.proxy.slow_query_threshold)

    def observe(self, rpc: Rpc, request: bytes, context: Context) -> _Observed:
        """Return what observes one call from `with` to its end, and gives its record."""
        return _Observed(self, rpc, request, context)

    def begin(self, record: CallRecord) -> None:
        """Count the call, and begin its span where spans are recorded."""
        self.begun += 1
        tracer = tracing.active()
        if tracer is not None:
            record.span = tracer.serve(record.rpc, record.metadata, self._attributes[record.rpc])

    def end(self, rpc: Rpc, request: bytes, record: CallRecord, seconds: float) -> None:
        """Write what is to be said of a call that ended."""
        if self.slow_after is not None and seconds > self.slow_after:
            log.warning("slow call", extra=_facts(record, seconds, describe(rpc, request)))
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("call", extra=_facts(record, seconds))
        if record.span is not None:
            ended_well = record.code == "OK"
            record.span.end("" if ended_well else record.code, _span_facts(record))


class _Observed:
    __slots__ = ("_context", "_observer", "_record", "_request", "_rpc", "_started", "_token")

    def __init__(self, observer: CallObserver, rpc: Rpc, request: bytes, context: Context) -> None:
        self._observer = observer
        self._rpc = rpc
        self._request = request
        self._context = context

    def __enter__(self) -> CallRecord:
        record = CallRecord(self._rpc.name, self._context.invocation_metadata())
        self._record = record
        self._token: Token[CallRecord | None] = current_call.set(record)
        self._started = perf_counter()
        self._observer.begin(record)
        return record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._record.code = "CANCELLED"
        try:
            seconds = perf_counter() - self._started
            self._observer.end(self._rpc, self._request, self._record, seconds)
        finally:
            current_call.reset(self._token)


async def send(context: Context, record: CallRecord, message: bytes) -> None:
    """Send one message of a stream, and note how long its caller took to take it."""
    started = perf_counter()
    await context.write(message)
    record.send_time += perf_counter() - started
    record.messages += 1
    record.sent_bytes += len(message)


def named(record: CallRecord, metadata: Metadata) -> Metadata:
    """Return the metadata of a failure with the ID by which the logs know the call."""
    if any(key == REQUEST_ID for key, _ in metadata):
        return metadata
    return (*metadata, (REQUEST_ID, record.request_id))


def _facts(record: CallRecord, seconds: float, wanted: str = "") -> dict[str, object]:
    """Return the fields of a log line; what is zero or unknown is left out."""
    facts: dict[str, object] = {
        "rpc": record.rpc,
        "seconds": round(seconds, 4),
        "code": record.code,
        "filter": wanted,
        "served_by": record.served_by,
        "route": record.route,
        "attempts": record.attempts,
        "statements": record.statements,
        "sql_seconds": round(record.sql_time, 4),
        "pool_wait_seconds": round(record.pool_wait, 4),
        "send_seconds": round(record.send_time, 4),
        "rows": record.rows,
        "messages": record.messages,
        "bytes": record.sent_bytes,
    }
    return {key: value for key, value in facts.items() if value}


def _span_facts(record: CallRecord) -> dict[str, str | bool | int | float]:
    facts: dict[str, str | bool | int | float] = {"rpc.response.status_code": record.code}
    if record.statements:
        facts["metastore.pool_wait_seconds"] = record.pool_wait
    if record.route:
        facts["metastore.route"] = record.route
        facts["metastore.served_by"] = record.served_by
    return facts
