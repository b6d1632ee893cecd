"""The status page over HTTP, of each role and without a browser."""

from __future__ import annotations

import gzip
import html
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.postgres_host import free_port
from proxy.lifecycle import NodeLifecycle
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.certificates import Authority, tls_settings
from tests.support.members import member_config, seed_of
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.routers import Caller, router_config, routing
from tests.support.status_boards import Script, serving
from tests.support.views import ours
from tests.support.waiting import until

HOSTILE = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>\x1b[2J"


def url(node: NodeLifecycle, path: str = "/") -> str:
    return f"http://127.0.0.1:{node.config.rest_listen_port}{path}"


async def get(http: aiohttp.ClientSession, where: str, **more: Any) -> tuple[Any, str]:
    async with http.get(where, **more) as response:
        assert response.status == 200
        return response.headers, await response.text()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def nodes(migrated_database: Scratch) -> AsyncIterator[dict[str, NodeLifecycle]]:
    async with AsyncExitStack() as stack:
        config = member_config(Role.METASTORE, migrated_database.primary_uri, "metastore-1")
        primary = await stack.enter_async_context(running(config))
        config = member_config(
            *(Role.READ_REPLICA, migrated_database.standby_uri, "replica-1"), seed_of(primary)
        )
        replica = await stack.enter_async_context(running(config))
        config = router_config([address(primary)], [address(replica)], max_lag="10s")
        router = await stack.enter_async_context(routing(config))
        yield {"metastore": primary, "replica": replica, "router": router}


SUMMARIES = {
    "metastore": "this node serves reads and writes from the primary's database",
    "replica": "this node serves reads from its replica and refuses writes",
    "router": "reads go to replica-1; writes go to metastore-1",
}


async def test_each_role_shows_itself_and_the_others(
    nodes: dict[str, NodeLifecycle], http: aiohttp.ClientSession
) -> None:
    shown: dict[str, Any] = {}

    async def as_expected() -> bool:
        for name, node in nodes.items():
            shown[name] = json.loads((await get(http, url(node, "/status.json")))[1])
        return {name: one["summary"] for name, one in shown.items()} == SUMMARIES and all(
            not one["findings"] for one in shown.values()
        )

    await until(as_expected, lambda: shown)
    kinds = {
        name: {node["name"]: node["kind"] for node in one["nodes"]} for name, one in shown.items()
    }
    pair = {"metastore-1": "primary", "replica-1": "replica"}
    assert kinds == {"metastore": pair, "replica": pair, "router": {**pair, "router-1": "router"}}
    assert "protection" not in shown["metastore"]
    assert shown["router"]["protection"]["fallback_limit"] == 32
    assert [one["route"] for one in shown["replica"]["routes"]] == ["served"]
    assert {one["name"]: one["reason"] for one in shown["replica"]["conditions"]} == {
        "database_connected": "",
        "schema_complete": "",
        "probe_answers": "",
    }
    assert 'cluster_id: "cluster-a"' in shown["metastore"]["config"]


async def test_calls_show_by_route(
    nodes: dict[str, NodeLifecycle], http: aiohttp.ClientSession
) -> None:
    found: dict[str, float] = {}
    everything = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString()
    async with Caller(address(nodes["router"])) as caller:

        async def shows() -> bool:
            await caller.unary("ListIndexesMetadata", everything)
            await caller.unary("ListIndexTemplates")
            for one in json.loads((await get(http, url(nodes["router"], "/status.json")))[1])[
                "routes"
            ]:
                found[one["route"]] = one["per_second"]
            return found["replica"] > 0 and found["primary"] > 0

        await until(shows, lambda: found)


async def test_the_page_holds_all_that_it_needs(http: aiohttp.ClientSession) -> None:
    script = Script()
    script.look()
    async with serving(script.board) as base:
        headers, page = await get(http, f"{base}/")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        loaded = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\s\"'>]*)", page)
        assert [one for one in loaded if not one.startswith("data:")] == [
            "status.json",
            "status.txt",
        ]
        assert "no primary is known: writes fail" in page


async def test_it_can_only_be_read(http: aiohttp.ClientSession) -> None:
    script = Script()
    async with serving(script.board) as base:
        for path in ("/", "/status.json", "/status.txt"):
            async with http.head(f"{base}{path}") as response:
                assert (response.status, await response.read()) == (200, b"")
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                async with http.request(method, f"{base}{path}") as response:
                    assert response.status == 405


async def test_what_is_large_is_compressed_for_those_who_take_it() -> None:
    script = Script()
    async with (
        aiohttp.ClientSession(auto_decompress=False) as http,
        serving(script.board) as base,
    ):
        async with http.get(f"{base}/status.json", headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            squeezed = await response.read()
        headers, plain = await get(
            http, f"{base}/status.json", headers={"Accept-Encoding": "identity"}
        )
        assert "Content-Encoding" not in headers
        assert json.loads(gzip.decompress(squeezed)) == json.loads(plain)


async def test_what_others_call_themselves_is_text_and_no_markup(
    http: aiohttp.ClientSession,
) -> None:
    script = Script()
    script.show(
        ours("me", "metastore_router", is_self=True),
        ours(HOSTILE, "metastore_read_replica", availability_zone=HOSTILE, readiness="NOT_READY"),
    )
    script.look()
    async with serving(script.board) as base:
        _, page = await get(http, f"{base}/")
        assert "<img src=x" not in page
        assert "alert(2)</script>" not in page
        assert html.escape("replica <img src=x onerror=alert(1)>") in page
        _, text = await get(http, f"{base}/status.txt")
        assert "<img src=x onerror=alert(1)>" in text
        assert "\x1b" not in page + text + (await get(http, f"{base}/status.json"))[1]


async def test_with_tls_it_is_there_as_well_and_health_alone_has_none(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    authority = Authority(tmp_path)
    tls = tls_settings(authority.issue("127.0.0.1"), authority.ca, mutual=False)
    health = free_port()
    config = member_config(Role.ROUTER, "", "router-1", rest_tls=tls, health_listen_port=health)
    async with routing(config, wait=False) as router:
        where = url(router).replace("http:", "https:")
        _, page = await get(http, where, ssl=ssl.create_default_context(cafile=str(authority.ca)))
        assert "router-1 (metastore_router " in page
        async with http.get(f"http://127.0.0.1:{health}/status.json") as response:
            assert response.status == 404
