"""An OTLP collector in the test's own process, by gRPC and by HTTP."""

from __future__ import annotations

from typing import Any, Self

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"


class Collector:
    """Keeps the requests that arrive, with the headers that they came with."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, Any]] = []
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, str]:
        """What the first spans say of whom they come from."""
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {one.key: one.value.string_value for one in attributes}

    def _keep(self, raw: bytes, headers: dict[str, Any]) -> bytes:
        self.requests.append(ExportTraceServiceRequest.FromString(raw))
        self.headers.append(headers)
        return ExportTraceServiceResponse().SerializeToString()

    async def __aenter__(self) -> Self:
        if self.protocol == "grpc":
            await self._serve_grpc()
        else:
            await self._serve_http()
        return self

    async def _serve_grpc(self) -> None:
        async def export(raw: bytes, context: Any) -> bytes:
            return self._keep(raw, dict(context.invocation_metadata()))

        handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(EXPORT, handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def _serve_http(self) -> None:
        async def export(request: web.Request) -> web.Response:
            headers = {key.lower(): value for key, value in request.headers.items()}
            return web.Response(body=self._keep(await request.read(), headers))

        app = web.Application()
        app.router.add_post("/v1/traces", export)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop(None)
        if self._runner is not None:
            await self._runner.cleanup()
