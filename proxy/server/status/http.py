"""The status page over HTTP: `/` for people, `status.json` for scripts, `status.txt` for both.

The page holds its style and its script itself, and its policy lets the browser load nothing but
`status.json` of the same node. Reading is all that can be done here: GET and HEAD.
"""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib import resources
from typing import Final

from aiohttp import web

from proxy.server.status.board import StatusBoard, squeezed
from proxy.server.status.text import render

_PAGE: Final = resources.files(__package__) / "page"
_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Under that a packet carries it anyhow.
_SMALL: Final = 1024


class StatusPages:
    """Handlers of what a board shows."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def add_to(self, app: web.Application) -> None:
        """Serve the page and what it polls, by GET and HEAD."""
        app.router.add_get("/", self._page)
        app.router.add_get("/status.json", self._json)
        app.router.add_get("/status.txt", self._text)

    async def _page(self, request: web.Request) -> web.Response:
        before, after, policy = _template()
        body = before + html.escape(render(self._board.status())) + after
        return _answer(request, body.encode(), "text/html", {"Content-Security-Policy": policy})

    async def _json(self, request: web.Request) -> web.Response:
        return _answer(request, self._board.json(), "application/json")

    async def _text(self, request: web.Request) -> web.Response:
        return _answer(request, f"{render(self._board.status())}\n".encode(), "text/plain")


def _answer(
    request: web.Request, body: bytes, kind: str, headers: dict[str, str] | None = None
) -> web.Response:
    told = {**_ALWAYS, **(headers or {}), "Content-Type": f"{kind}; charset=utf-8"}
    if len(body) > _SMALL and "gzip" in request.headers.get("Accept-Encoding", ""):
        body, told = squeezed(body), {**told, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return web.Response(body=body, headers=told)


@cache
def _template() -> tuple[str, str, str]:
    """Return the page before and after the text for browsers without scripts, and its policy."""
    page, style, script = (
        (_PAGE / name).read_text(encoding="utf-8")
        for name in ("index.html", "status.css", "status.js")
    )
    page = page.replace("/*style*/", style).replace("/*script*/", script)
    before, _, after = page.partition("<!--text-->")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return before, after, policy


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
