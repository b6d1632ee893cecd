"""What logs and traces cost each call, in microseconds of the event loop's time.

Run with `python -m tests.bench.observe`. Nothing is exported: what the exporter's thread takes
comes on top. The figures are the best of several rounds, less those of an empty loop.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from proxy import otel, tracing
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import REQUEST_ID
from proxy.server.filters import describe
from proxy.server.forwarding import Hops
from proxy.server.observing import CallObserver
from proxy.store.measured import statement
from tests.support.splitting import query

ROUNDS: Final = 15
CALLS: Final = 5_000
RPC: Final = RPCS["IndexMetadata"]
PARENT: Final = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
GIVEN: Final = ((REQUEST_ID, "0123456789abcdef"), ("user-agent", "bench"), PARENT)
SQL: Final = "SELECT 1"


class _Context:
    """As much of a call's context as an observer asks for."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


def microseconds(run: Callable[[], object]) -> float:
    """Return what one run takes."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            run()
        best = min(best, time.perf_counter() - began)
    return best / CALLS * 1e6


def cases() -> Mapping[str, Callable[[], object]]:
    """Return what is measured."""
    observer, hops = CallObserver("node-1", "metastore", slow_after=1.0), Hops("router-1")
    context: Any = _Context(*GIVEN)
    bare: Any = _Context(GIVEN[1])

    def node() -> None:
        with observer.observe(RPC, b"", context), statement(SQL):
            pass

    def router() -> None:
        with observer.observe(RPC, b"", bare) as call:
            hops.onward(call.metadata, call.request_id)
            tracer = tracing.active()
            if tracer is not None:
                span = tracer.send(RPC.name, {"metastore.attempt": 1})
                span.carry(call.metadata)
                span.end()

    return {"a node's call, with one statement": node, "a router's call, with an ID made": router}


def measure(report: Callable[[str], object]) -> None:
    """Measure all cases."""
    logging.getLogger("proxy").setLevel(logging.INFO)
    settings = {
        "off": None,
        "not sampled": TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
        "recorded": TracerProvider(shutdown_on_exit=False),
    }
    empty = microseconds(lambda: None)
    report(f"{'µs per call, tracing':<36}" + "".join(f"{name:>13}" for name in settings))
    for name, run in cases().items():
        figures = []
        for provider in settings.values():
            tracing.install(None if provider is None else otel.OtelTracer(provider))
            figures.append(microseconds(run) - empty)
        report(f"{name:<36}" + "".join(f"{figure:>13.2f}" for figure in figures))
    tracing.install(None)
    request = query(index_uids=["index:01K33Z58DJRFAEBXG71GMKMJTW"], limit=100)
    raw = pb.ListSplitsRequest.SerializeToString(request)
    filters = microseconds(lambda: describe(RPCS["ListSplits"], raw)) - empty
    report(f"{'the filter of a slow call':<36}{filters:>13.2f}")


if __name__ == "__main__":
    measure(lambda line: sys.stdout.write(f"{line}\n"))
