"""The status page in a real headless browser: a cluster as processes, and scripted boards."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.demo.postgres_host import free_port
from proxy.routing.members import BackendRole, BackendState
from tests.support.browser import Browser, Page, browser
from tests.support.status_boards import Script, behind, serving
from tests.support.status_pages import Shown, shown
from tests.support.views import ours
from tests.support.waiting import until
from tests.unit.server.status.test_nodes import one

HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=2</script>"


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


@pytest.fixture
async def page(chromium: Browser) -> AsyncIterator[Page]:
    async with chromium.page() as page:
        yield page


@pytest.fixture(scope="module")
async def cluster(chromium: Browser) -> AsyncIterator[Shown]:
    # The browser first: without one there is no need for a cluster.
    async with shown(max_lag="2s") as made:
        yield made


async def lag(page: Page, name: str) -> float:
    """Return the lag that a node's card shows, in seconds; NaN when it is unknown."""
    text = await page.text(f"[data-node={json.dumps(name)}] .lag b")
    return float("nan") if text == "unknown" else float(text.removesuffix(" s"))


async def curve(page: Page, name: str) -> float:
    """Return how high the plot of a node's lag ends, of 60."""
    path = await page.evaluate(
        f"[...document.querySelectorAll('[data-node={json.dumps(name)}] .curve')]"
        ".pop().getAttribute('d')"
    )
    return 60.0 - float(path.rpartition(" ")[2])


async def test_a_cluster_from_well_to_worse_and_back_without_a_reload(
    cluster: Shown, page: Page
) -> None:
    """One story, since each of its turns begins where the one before ended."""
    await page.open(cluster.url)
    await page.evaluate("window.sameDocument = true")
    await page.shows(
        "All is well. Reads go to replica-1a and replica-2a; writes go to metastore-1."
    )
    await page.shows("takes writes", "[data-node=metastore-1]")
    assert page.complaints == []

    await cluster.hold_replay(1)
    seen = [await lag(page, "replica-2a")]

    async def grows() -> bool:
        now = await lag(page, "replica-2a")
        if now > seen[-1]:
            seen.append(now)
        return len(seen) > 3 and now > 3.0

    await until(grows, lambda: seen)
    assert await curve(page, "replica-2a") > 45.0
    await page.shows("behind; bound 2 s; reads go to replica-1a", "#findings")
    await page.shows("Warning: replica-2a replays", "#findings")
    await page.shows("too old", "[data-node=replica-2a]")
    await cluster.let_replay(1)
    await page.shows("All is well", "#verdict")

    one, other = cluster.cluster.replicas
    one.kill()
    await page.shows(f"replica-1a at {one.address} is down; reads go to replica-2a", "#findings")
    await page.shows("down", "[data-node=replica-1a] .state")
    one.start()
    await page.shows("All is well", "#verdict")
    await page.shows("takes reads", "[data-node=replica-1a] .state")

    one.kill()
    other.kill()
    await page.shows("no replica is up: all reads go to the primary (fallback)", "#findings")
    await until(lambda: page.evaluate("document.querySelector('#verdict').className === 'warning'"))
    one.start()
    await page.shows("Reads go to replica-1a", "#verdict")

    cluster.cluster.primary.kill()
    await page.shows("is down: writes fail; reads", "#findings")
    await page.shows("Error: primary metastore-1", "#findings")
    await page.shows("Writes fail; reads", "#verdict-title")
    await page.shows("since ", "#findings")
    assert await page.evaluate("window.sameDocument")
    own = urlsplit(cluster.url).netloc
    assert {urlsplit(request).netloc for request in page.requests} == {own}
    assert page.complaints == []


@asynccontextmanager
async def nobody(_port: int) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def frozen(port: int) -> AsyncIterator[None]:
    """Take connections and say nothing, as a process does that was stopped."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.mark.parametrize("instead", [nobody, frozen])
async def test_a_node_that_falls_silent_is_said_to_be_and_comes_back(
    page: Page, instead: Callable[[int], AbstractAsyncContextManager[None]]
) -> None:
    script, port = Script(), free_port()
    script.look()
    async with serving(script.board, port=port) as base:
        await page.open(f"{base}/")
        await page.shows("live, 08:00:01 UTC", "#live")
    async with instead(port):
        await page.shows("No answer from this node", "#verdict")
        await page.shows("this node does not answer; what is shown below is what it last said")
        await page.shows("; last seen 08:00:01 UTC", "#live")
    script.look(60.0)
    async with serving(script.board, port=port):
        await page.shows("live, 08:01:01 UTC", "#live")
        assert "does not answer" not in await page.text()


async def test_it_asks_for_nothing_while_it_is_hidden(page: Page) -> None:
    script = Script()
    async with serving(script.board) as base:
        await page.open(f"{base}/")
        await page.shows("live", "#live")
        hide = (
            "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await page.evaluate(hide % "true")
        await page.shows("paused while hidden", "#live")
        asked = len(page.requests)
        # Longer than between two looks: that nothing happens can only be waited for.
        await asyncio.sleep(1.5)
        assert len(page.requests) == asked
        await page.evaluate(hide % "false")
        await page.shows("live", "#live")
        assert len(page.requests) == asked + 1


def crowded() -> Script:
    script = Script()
    script.show(
        ours("router-1", "metastore_router", host="10.0.0.2", is_self=True),
        ours("replica-" + "x" * 110, "metastore_read_replica", host="10.0.0.6"),
        ours(HOSTILE, "metastore_read_replica", host="10.0.0.7", availability_zone=HOSTILE),
    )
    trouble = {"state": BackendState.DOWN, "trouble": HOSTILE}
    script.backends = (
        one("10.0.0.5:7281", BackendRole.PRIMARY),
        one("10.0.0.6:7281", BackendRole.REPLICA, lag=0.2),
        one("10.0.0.7:7281", BackendRole.REPLICA, "down", **trouble),
    )
    script.alarms = (f"node `{HOSTILE}` works on the same database",)
    for _ in range(3):
        script.look()
    return script


async def test_hostile_names_are_text(page: Page) -> None:
    async with serving(crowded().board) as base:
        await page.open(f"{base}/")
        await page.shows("(this node)", "#topology")
        assert HOSTILE in await page.text("#topology")
        assert HOSTILE in await page.text("#findings")
        assert await page.evaluate("window.hacked") is None
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert page.complaints == []


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
async def test_no_width_needs_horizontal_scrolling(page: Page, width: int) -> None:
    async with serving(crowded().board) as base:
        await page.size(width)
        await page.open(f"{base}/")
        await page.shows("replica-x", "#topology")
        await page.evaluate("document.querySelector('#config').open = true")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_light_and_dark_can_both_be_read(page: Page) -> None:
    contrasts = (
        "(() => {const light = (colour) => {const [r, g, b] = colour.match(/[\\d.]+/g)"
        ".map((one) => {const s = one / 255; return s <= 0.04045 ? s / 12.92 :"
        " ((s + 0.055) / 1.055) ** 2.4}); return 0.2126 * r + 0.7152 * g + 0.0722 * b};"
        "const back = (element) => {const own = getComputedStyle(element).backgroundColor;"
        " return own.endsWith(', 0)') ? back(element.parentElement) : own};"
        "return [...document.querySelectorAll('h1, h2, h3, p, dt, dd, b, .state, .mark, a')]"
        ".filter((element) => element.innerText && !element.closest('.heard')).map((element) => {"
        "const [a, b] = [getComputedStyle(element).color, back(element)].map(light);"
        "return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.innerText]})"
        ".sort((one, other) => one[0] - other[0])[0]})()"
    )
    backs: list[Any] = []
    async with serving(crowded().board) as base:
        for scheme in ("light", "dark"):
            await page.prefer(scheme)
            await page.open(f"{base}/")
            await page.shows("replica-x", "#topology")
            backs.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            ratio, where = await page.evaluate(contrasts)
            # What WCAG 2.2 asks for at level AA.
            assert ratio >= 4.5, (scheme, where)
    assert backs == ["rgb(245, 246, 248)", "rgb(17, 20, 26)"]


async def test_it_can_be_read_out_and_used_by_keyboard(page: Page) -> None:
    async with serving(crowded().board) as base:
        await page.open(f"{base}/")
        await page.shows("replica-x", "#topology")
        said = await page.evaluate("document.querySelector('[role=status]').textContent")
        assert "is down" in said
        named = (
            "[...document.querySelectorAll('svg')].every((one) => one.getAttribute('aria-label'))"
        )
        assert await page.evaluate(named)
        headings = "[...document.querySelectorAll('h1, h2, h3')].map((one) => one.tagName).join()"
        assert (await page.evaluate(headings)).startswith("H1,H2,H2,H3")
        for key in ("Tab", "Enter"):
            for kind in ("keyDown", "keyUp"):
                text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
                code = {"Tab": 9, "Enter": 13}[key]
                await page.tell(
                    *("Input.dispatchKeyEvent",),
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                    **text,
                )
        await until(lambda: page.evaluate("document.querySelector('#config').open"))
        assert 'node_id: "router-1"' in await page.text("#yaml")


@pytest.mark.parametrize("last", ["", "/"])
async def test_it_works_below_a_prefix(page: Page, last: str) -> None:
    async with serving(crowded().board) as upstream, behind(upstream, "/ops/m") as base:
        await page.open(f"{base}{last}")
        await page.shows("live", "#live")
        assert {urlsplit(one).path for one in page.requests} == {
            f"/ops/m{last}",
            "/ops/m/status.json",
        }
        assert page.complaints == []


async def test_without_scripts_there_is_the_text(page: Page) -> None:
    async with serving(crowded().board) as base:
        await page.tell("Emulation.setScriptExecutionDisabled", value=True)
        await page.tell("Page.navigate", url=f"{base}/")
        await page.shows("metastore-proxy status --watch", "noscript")
        text = await page.text("#text")
        assert "writes go to 10.0.0.5:7281" in text
        assert HOSTILE in text
