"""Spans of calls, recorded by whatever tracer the application installs; none by default.

Without a tracer nothing is recorded, no tracing library is loaded, and a caller's trace context
(`traceparent`, `tracestate`) is passed on as it came.

Facts: W3C Trace Context, level 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

Metadata = Sequence[tuple[str, str | bytes]]
Attributes = Mapping[str, str | bool | int | float]

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32


class Span(Protocol):
    """One operation of a trace, under way."""

    @property
    def trace_id(self) -> str:
        """The trace that it belongs to, in hexadecimal."""

    def carry(self, metadata: Metadata) -> Metadata:
        """Return the metadata of a request whose receiver shall continue this span."""

    def end(self, error: str = "", attributes: Attributes | None = None) -> None:
        """End the span; `error` is the kind of failure, empty for none. Once."""


class Tracer(Protocol):
    """Makes spans. Must not block."""

    def serve(self, rpc: str, metadata: Metadata, attributes: Attributes) -> Span:
        """Begin the span of a call that is served here, and make it the current one.

        Its parent is the span that `metadata` names. It is to be ended where it began.
        """

    def send(self, rpc: str, attributes: Attributes) -> Span:
        """Begin the span of a call to another node, as a child of the current one."""

    def query(self, name: str) -> Span:
        """Begin the span of a statement, as a child of the current one."""


class _Installed:
    tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Record the spans of this process with `tracer` from now on; None records none."""
    _Installed.tracer = tracer


def active() -> Tracer | None:
    """Return the tracer that is installed."""
    return _Installed.tracer


def trace_id_of(metadata: Metadata) -> str:
    """Return the ID of the trace that a request belongs to; empty if it names none."""
    for key, value in metadata:
        if key == TRACEPARENT and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            return match[1] if match is not None and match[1] != _NO_TRACE else ""
    return ""
