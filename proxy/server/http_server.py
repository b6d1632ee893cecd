"""The HTTP endpoints of a node: health, metrics and status on the REST port, health on its own.

Facts: paths and answers are Quickwit's: `/health/livez` and `/health/readyz` give 200 `true`, or
503 when not ready; `/metrics` is Prometheus' text format. Ours: the 503 says which conditions fail,
`?verbose` shows every condition in either state, and `/metrics` is OpenMetrics if asked for.
"""

from __future__ import annotations

import socket

from aiohttp import web

from proxy import errors
from proxy.config import NodeConfig
from proxy.metrics import NodeMetrics
from proxy.server.http_refusals import request_log
from proxy.server.readiness import Readiness
from proxy.server.status.http import StatusPages
from proxy.server.tls_front import TlsFront


class HttpServer:
    """Binds in `open`; answers until `close`.

    With `tls` the REST port speaks TLS. The port for health alone never does: probes use it.
    """

    def __init__(
        self,
        config: NodeConfig,
        readiness: Readiness,
        metrics: NodeMetrics,
        *,
        tls: TlsFront | None = None,
        pages: StatusPages | None = None,
    ) -> None:
        self._config = config
        self._readiness = readiness
        self._metrics = metrics
        self._tls = tls
        self._pages = pages
        self._runners: list[web.AppRunner] = []
        self.port = 0

    async def open(self) -> None:
        """Listen on the REST port, and on `health.listen_port` where it is set.

        `Io` when an address cannot be bound.
        """
        if self._runners:
            return
        self.port = await self._listen(
            "rest.listen_port", self._config.rest_listen_port, with_metrics=True
        )
        if self._config.health_listen_port is not None:
            await self._listen(
                "health.listen_port", self._config.health_listen_port, with_metrics=False
            )

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._tls is not None:
            self._tls.refuse()
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()
        if self._tls is not None:
            await self._tls.close()

    async def _listen(self, key: str, port: int, *, with_metrics: bool) -> int:
        """Listen on a port, 0 for any; return its number."""
        app = web.Application()
        app.router.add_get("/health/livez", self._livez)
        app.router.add_get("/health/readyz", self._readyz)
        if with_metrics:
            app.router.add_get("/metrics", self._render_metrics)
            if self._pages is not None:
                self._pages.add_to(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=request_log())
        await runner.setup()
        self._runners.append(runner)
        host = self._config.listen_address
        try:
            if self._tls is not None and with_metrics:
                bound, inner_path = self._tls.bind(host, port)
                await web.UnixSite(runner, inner_path).start()
                self._tls.open()
                return bound
            # The gRPC port takes `::` for IPv4 as well, the event loop for IPv6 alone.
            if host == "::" and socket.has_dualstack_ipv6():
                both = socket.create_server(
                    (host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
                )
                await web.SockSite(runner, both).start()
            else:
                await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise errors.Io(
                f"cannot listen on {host}:{port} for HTTP ({error.strerror}): is another process "
                f"using `{key}`, and is `listen_address` one of this host"
            ) from error
        return int(runner.addresses[0][1])

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response(data=True)

    async def _readyz(self, request: web.Request) -> web.Response:
        ready = self._readiness.is_ready
        if ready and "verbose" not in request.query:
            return web.json_response(data=True)
        body = {
            "ready": ready,
            "failures": self._readiness.failures,
            "conditions": {
                name: reason or self._said_of(name)
                for name, reason in self._readiness.conditions.items()
            },
        }
        return web.json_response(body, status=200 if ready else 503)

    def _said_of(self, condition: str) -> str:
        warning = self._readiness.warnings.get(condition)
        return f"ok, but {warning}" if warning else self._readiness.notes.get(condition, "ok")

    async def _render_metrics(self, request: web.Request) -> web.Response:
        asked = request.headers
        coding = asked.get("Accept-Encoding", "")
        found = await self._metrics.expose(asked.get("Accept", ""), coding)
        return web.Response(body=found.body, headers=found.headers)
