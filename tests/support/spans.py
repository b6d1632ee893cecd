"""Spans of nodes in the test's own process, and the tree they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer, format_trace_id

from proxy import otel, tracing
from tests.support.waiting import until


class Spans:
    """What has been recorded; `tracer` makes the spans of the application that calls."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracer: Tracer = self.provider.get_tracer("application")

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        return self._memory.get_finished_spans()

    async def of_trace(self, trace_id: int, count: int) -> list[ReadableSpan]:
        """Return the spans of a trace once so many have ended."""

        def found() -> list[ReadableSpan]:
            return [one for one in self.ended if one.context and one.context.trace_id == trace_id]

        await until(lambda: len(found()) >= count, lambda: drawn(found()))
        return found()


@contextmanager
def recorded() -> Iterator[Spans]:
    """Record the spans of this process."""
    spans = Spans()
    otel.install(spans.provider)
    try:
        yield spans
    finally:
        tracing.install(None)
        spans.provider.shutdown()


def drawn(spans: Sequence[ReadableSpan]) -> list[str]:
    """Return the tree of one trace, a line for each span: kind, name, where, how it ended.

    A span whose parent was not recorded stands at the margin.
    """
    known = {one.context.span_id for one in spans if one.context is not None}

    def below(parent: int | None, depth: int) -> Iterator[str]:
        for one in sorted(spans, key=lambda span: span.start_time or 0):
            above = one.parent.span_id if one.parent is not None else None
            if above not in known:
                above = None
            if above == parent and one.context is not None:
                yield "  " * depth + _line(one)
                yield from below(one.context.span_id, depth + 1)

    return list(below(None, 0))


def _line(span: ReadableSpan) -> str:
    found = span.attributes or {}
    words = [
        span.kind.name.lower(),
        span.name.removeprefix("quickwit.metastore.MetastoreService/"),
        found.get("metastore.node_id", ""),
        found.get("metastore.route", "") if span.kind.name == "CLIENT" else "",
        f"failed: {found['error.type']}" if "error.type" in found else "",
    ]
    return " ".join(str(word) for word in words if word)


def trace_id_of(span: ReadableSpan) -> str:
    """Return the trace that a span belongs to, in hexadecimal."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id)
