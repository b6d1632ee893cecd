"""A real headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from proxy.demo.watchdog import Watchdog
from tests.support import chromium, debian
from tests.support.waiting import until

_FLAGS: Final = (
    "--headless",
    # The tests may run as root; what is shown is our own page.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)
_START_BOUND: Final = 60.0


class Page:
    """A tab, and all that went on in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.requests: list[str] = []
        # Exceptions, and what scripts or the browser wrote to the console.
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser says until the connection ends."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(30):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        await self.tell("Page.navigate", url=url)
        await until(lambda: self.evaluate("document.readyState === 'complete'"))

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        said = await self.tell(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def text(self, selector: str = "body") -> str:
        """Return what can be read in an element; empty where there is none."""
        found = await self.evaluate(
            f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''"
        )
        assert isinstance(found, str)
        return found.replace("\N{NO-BREAK SPACE}", " ")

    async def shows(self, text: str, selector: str = "body", *, timeout: float = 30.0) -> None:
        """Wait until an element shows a text."""

        async def there() -> bool:
            nonlocal shown
            shown = await self.text(selector)
            return text in shown

        shown = ""
        await until(there, lambda: f"{text!r} is not in:\n{shown}", timeout=timeout)

    async def size(self, width: int, height: int = 800) -> None:
        """Be a screen of that size in CSS pixels, a phone's when it is that narrow."""
        await self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    async def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.tell("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, height: int | None = None) -> bytes:
        """Return what the page shows, in full or up to `height` CSS pixels, as PNG."""
        metrics = (await self.tell("Page.getLayoutMetrics"))["cssContentSize"]
        most = metrics["height"] if height is None else min(height, metrics["height"])
        clip = {"x": 0, "y": 0, "width": metrics["width"], "height": most, "scale": 1}
        said = await self.tell(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
        return base64.b64decode(said["data"])


class Browser:
    """A running Chromium."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self._http = http
        self._address = address

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """Open a tab, which is closed in the end."""
        async with self._http.put(f"{self._address}/json/new?about:blank") as response:
            target = await response.json()
        url = target["webSocketDebuggerUrl"]
        async with self._http.ws_connect(url, max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen(), name="browser")
            try:
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.tell(f"{domain}.enable")
                await page.size(1100)
                yield page
            finally:
                listening.cancel()
                await asyncio.wait({listening})
                async with self._http.get(f"{self._address}/json/close/{target['id']}"):
                    pass


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run a Chromium; skips the test where none can be had."""
    try:
        program = await asyncio.to_thread(chromium.program)
    except debian.Missing as error:
        pytest.skip(str(error))
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-browser-"))
    watchdog = Watchdog(directory)
    process = _start(program, directory)
    watchdog.started(process.pid)
    try:
        async with aiohttp.ClientSession() as http:
            yield Browser(http, await _address(process, directory))
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        watchdog.ended(process.pid)
        await asyncio.to_thread(watchdog.close)


def _start(program: chromium.Program, directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "browser.log").open("wb") as log:
        return subprocess.Popen(
            [str(program.path), *_FLAGS, f"--user-data-dir={directory / 'profile'}", "about:blank"],
            env={**os.environ, **program.environment, "HOME": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


async def _address(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Return where the browser takes commands; skips where it cannot run at all."""
    port = directory / "profile" / "DevToolsActivePort"
    log = directory / "browser.log"

    def is_up() -> bool:
        return process.poll() is not None or (port.exists() and "\n" in port.read_text())

    await until(is_up, lambda: log.read_text(errors="replace"), timeout=_START_BOUND)
    if process.poll() is not None:
        said = log.read_text(errors="replace").strip().splitlines()
        pytest.skip(f"Chromium does not run here: {said[-1] if said else process.returncode}")
    return f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
