"""Spans by OpenTelemetry: the tracer that `proxy.tracing` is given, and its export by OTLP.

Imported only where spans are recorded. A `metastore-proxy` process exports when
`QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER` is true. An application with an OpenTelemetry set-up of its
own that uses `proxy.client` calls `install()` once, so that its calls carry its trace.

Facts: variables, protocols, defaults and the length of the queue are Quickwit's; `OTEL_*` are read
by the SDK. Names of attributes are OpenTelemetry's semantic conventions; `metastore.*` are ours.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import tracing
from proxy.routing.catalogue import RPCS, SERVICE
from proxy.tracing import TRACEPARENT, TRACESTATE, Attributes, Metadata
from proxy.version import VERSION

_OF_A_TRACE: Final = (TRACEPARENT, TRACESTATE)
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NAMES: Final[Mapping[str, str]] = {name: f"{SERVICE}/{name}" for name in RPCS}
_DATABASE: Final = "postgresql"


class OtelSpan:
    """One span; `token` is set when it was made the current one."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span, token: Token[Context] | None = None) -> None:
        self._span = span
        self._token = token

    @property
    def trace_id(self) -> str:
        """The trace that it belongs to, in hexadecimal."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def carry(self, metadata: Metadata) -> Metadata:
        """Return the metadata of a request whose receiver shall continue this span."""
        found = self._span.get_span_context()
        kept = [item for item in metadata if item[0] not in _OF_A_TRACE]
        parent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        kept.append((TRACEPARENT, parent))
        if found.trace_state:
            kept.append((TRACESTATE, found.trace_state.to_header()))
        return kept

    def end(self, error: str = "", attributes: Attributes | None = None) -> None:
        """End the span; `error` is the kind of failure, empty for none. Once."""
        span = self._span
        if self._token is not None:
            contexts.detach(self._token)
        if span.is_recording():
            if attributes:
                span.set_attributes(attributes)
            if error:
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR)
        span.end()


class OtelTracer:
    """Makes spans with the tracer of a provider."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("metastore-proxy", VERSION)

    def serve(self, rpc: str, metadata: Metadata, attributes: Attributes) -> OtelSpan:
        """Begin the span of a call that is served here, and make it the current one."""
        carrier = {
            key: value for key, value in metadata if key in _OF_A_TRACE and isinstance(value, str)
        }
        # Without a parent of its own it begins a trace, whatever was current here.
        parent = _PROPAGATOR.extract(carrier, Context())
        span = self._tracer.start_span(
            _NAMES[rpc], context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return OtelSpan(span, contexts.attach(trace.set_span_in_context(span)))

    def send(self, rpc: str, attributes: Attributes) -> OtelSpan:
        """Begin the span of a call to another node, as a child of the current one."""
        return self._child(_NAMES[rpc], attributes)

    def query(self, name: str) -> OtelSpan:
        """Begin the span of a statement, as a child of the current one."""
        attributes = {"db.system.name": _DATABASE, "db.query.summary": name}
        return self._child(name, attributes)

    def _child(self, name: str, attributes: Attributes) -> OtelSpan:
        current = trace.get_current_span()
        found = current.get_span_context()
        is_left_out = not current.is_recording() and not found.trace_flags.sampled
        if is_left_out and found.is_valid and not found.is_remote:
            # What this process does not sample needs no spans below it: its own context goes on.
            return OtelSpan(current)
        return OtelSpan(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


def install(provider: trace.TracerProvider | None = None) -> None:
    """Record the spans of this process with `provider`, by default OpenTelemetry's global one."""
    tracing.install(OtelTracer(provider or trace.get_tracer_provider()))


class Export:
    """Records the spans of a process and exports them by OTLP, from a thread of its own.

    `protocol` is `grpc` or `http/protobuf`; `queue` is how many spans may wait, those beyond are
    dropped; `resource` says whose spans they are, where `OTEL_RESOURCE_ATTRIBUTES` and
    `OTEL_SERVICE_NAME` do not. A call waits for nothing of this.
    """

    def __init__(self, protocol: str, queue: int, resource: Mapping[str, str]) -> None:
        self._provider = TracerProvider(resource=_resource(resource), shutdown_on_exit=False)
        processor = BatchSpanProcessor(_exporter(protocol), max_queue_size=queue)
        self._provider.add_span_processor(processor)
        install(self._provider)

    async def close(self, timeout: float) -> None:
        """Record nothing more, and export what waits, for `timeout` seconds at most."""
        tracing.install(None)
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            # Past its bound the loop may be gone.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        # A daemon, not the loop's pool: a collector that hangs must not keep the process.
        threading.Thread(target=shut_down, name="tracing-flush", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), timeout)


def _exporter(protocol: str) -> SpanExporter:
    # Each loads a client library of its own.
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter()


def _resource(attributes: Mapping[str, str]) -> Resource:
    own = {
        "service.name": "metastore-proxy",
        "service.version": VERSION,
        **attributes,
    }
    # What the environment says goes before ours, and ours before what the SDK makes up.
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
