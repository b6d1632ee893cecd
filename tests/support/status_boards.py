"""A status board over scripted sources, and a web server that shows it, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web

from proxy.config import NodeConfig
from proxy.gossip.view import ClusterView, MemberView
from proxy.metrics.tally import Tally
from proxy.roles import Role
from proxy.routing.figures import BackendFigures, Figures
from proxy.server.readiness import Readiness
from proxy.server.status.board import Sources, StatusBoard
from proxy.server.status.http import StatusPages
from tests.support.views import cluster


class Script:
    """What a board looks at; change it, and call `board.look()`."""

    def __init__(self, config: NodeConfig | None = None) -> None:
        config = config or NodeConfig(role=Role.ROUTER, node_id="router-1")
        self.config = replace(config, proxy=replace(config.proxy, max_lag=10.0))
        self.readiness = Readiness({"backend_serves": ""})
        self.tally = Tally()
        self.view: ClusterView | None = None
        self.alarms: tuple[str, ...] = ()
        self.backends: tuple[BackendFigures, ...] = ()
        self.fallbacks = 0
        self.now = 1_800_000_000.0
        self.sources = Sources(
            config=lambda: self.config,
            readiness=self.readiness,
            tally=self.tally,
            is_gossiping=True,
            view=lambda: self.view,
            alarms=lambda: self.alarms,
            figures=lambda: Figures(self.backends, 10.0, self.fallbacks, 32, None),
        )
        self.board = StatusBoard(self.sources, clock=lambda: self.now)

    def show(self, *members: MemberView) -> None:
        """Have these be the members."""
        self.view = cluster(*members)

    def look(self, seconds: float = 1.0) -> None:
        """Look after so many seconds."""
        self.now += seconds
        self.board.look()


@asynccontextmanager
async def serving(board: StatusBoard, *, port: int = 0) -> AsyncIterator[str]:
    """Serve a board's page; the value is its address without a slash at the end."""
    app = web.Application()
    StatusPages(board).add_to(app)
    async with _running(app, port) as address:
        yield address


@asynccontextmanager
async def behind(upstream: str, prefix: str) -> AsyncIterator[str]:
    """Serve what `upstream` serves below a prefix, as a reverse proxy does."""

    async def forward(request: web.Request) -> web.Response:
        path = request.path.removeprefix(prefix) or "/"
        async with aiohttp.ClientSession() as http, http.get(f"{upstream}{path}") as response:
            kept = ("Content-Type", "Content-Security-Policy", "Cache-Control")
            headers = {name: response.headers[name] for name in kept if name in response.headers}
            return web.Response(body=await response.read(), status=response.status, headers=headers)

    app = web.Application()
    app.router.add_get(prefix, forward)
    app.router.add_get(f"{prefix}/{{rest:.*}}", forward)
    async with _running(app, 0) as address:
        yield f"{address}{prefix}"


@asynccontextmanager
async def _running(app: web.Application, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        bound: Any = runner.addresses[0]
        yield f"http://127.0.0.1:{bound[1]}"
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)
