"""The span of each attempt, where the application records spans (`proxy.tracing`)."""

from __future__ import annotations

from proxy import tracing
from proxy.calls import current_call
from proxy.client.attempts import Attempt, Call
from proxy.client.wire import Failure
from proxy.errors import Code
from proxy.routing.catalogue import SERVICE
from proxy.routing.selection import Choice


def begin_span(call: Call, choice: Choice) -> tracing.Span | None:
    """Begin the span of an attempt, `call.attempts` being its number; None if none are recorded."""
    served = current_call.get()
    if served is not None:
        served.attempts += 1
    tracer = tracing.active()
    if tracer is None:
        return None
    host, _, port = choice.backend.address.rpartition(":")
    return tracer.send(
        call.rpc.name,
        {
            "rpc.system.name": "grpc",
            "rpc.method": f"{SERVICE}/{call.rpc.name}",
            "server.address": host.strip("[]"),
            "server.port": int(port),
            "metastore.attempt": call.attempts,
            "metastore.route": choice.route.value,
            "metastore.backend_role": choice.backend.role.value,
        },
    )


def end_span(attempt: Attempt, code: Code, failure: Failure | None) -> None:
    """End the span of an attempt. The text of an error stays out: it may hold a user's data."""
    if attempt.span is None:
        return
    error = "" if code is Code.OK else code.name
    if failure is not None and failure.is_explicit:
        error = failure.error.variant
    attempt.span.end(error, {"rpc.response.status_code": code.name})
