"""Pictures of the status page for the README: `make screenshots`.

They are taken of a real cluster under a small load, in a real browser, so that none shows what the
page does not. Takes about two minutes.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import _pytest.outcomes

from tests.support.browser import Page, browser
from tests.support.status_pages import Shown, shown

_PLACE: Final = Path(__file__).parents[2] / "config" / "screenshots"
# Seconds until the plots show something.
_PAST: Final = 45.0
_WIDE: Final = (1000, 720)
_PHONE: Final = (360, 1000)


async def _take(page: Page, name: str, scheme: str, size: tuple[int, int] = _WIDE) -> None:
    width, height = size
    await page.prefer(scheme)
    await page.size(width)
    # The next look draws everything anew.
    await asyncio.sleep(1.5)
    picture = await page.screenshot(height)
    (_PLACE / f"{name}.png").write_bytes(picture)
    sys.stdout.write(f"{name}.png: {len(picture) // 1024} kB\n")


async def _pictures(cluster: Shown, page: Page) -> None:
    await page.open(cluster.url)
    await asyncio.sleep(_PAST)
    await page.shows("All is well")
    await _take(page, "healthy", "light")

    await cluster.hold_replay(1)
    await page.shows("replica-2a replays 14 s behind", "#findings")
    await _take(page, "one-replica-lagging", "light")
    await _take(page, "one-replica-lagging-phone", "dark", _PHONE)
    await cluster.let_replay(1)
    await page.shows("All is well")

    for replica in cluster.cluster.replicas:
        replica.kill()
    await page.shows("no replica is up", "#findings")
    await asyncio.sleep(5.0)
    await _take(page, "no-replica", "dark")
    for replica in cluster.cluster.replicas:
        replica.start()
    await page.shows("All is well")
    await asyncio.sleep(5.0)

    cluster.cluster.primary.kill()
    await page.shows("writes fail", "#findings")
    await asyncio.sleep(5.0)
    await _take(page, "primary-down", "light")


async def main() -> int:
    """Take all pictures; status 1, saying why, where no browser can be had."""
    _PLACE.mkdir(exist_ok=True)
    try:
        async with browser() as chromium, shown(max_lag="10s") as cluster, chromium.page() as page:
            await _pictures(cluster, page)
    except _pytest.outcomes.Skipped as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
