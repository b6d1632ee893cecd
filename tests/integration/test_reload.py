"""Taking up a changed configuration: what changes, what does not, and what a bad file does."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.config import NodeConfig
from proxy.node import Node
from proxy.roles import Role
from proxy.server.reload import Reloader
from tests.support.certificates import Authority
from tests.support.fake_node import FakeNode
from tests.support.log_lines import written
from tests.support.nodes import node_config
from tests.support.reloading import Reloading, reloading
from tests.support.routers import Caller
from tests.support.waiting import until

IN_PART = "configuration reloaded in part, for a defect: restart the node to have all of it"
REFUSED = "configuration not reloaded: nothing is changed, what was in force stays"
RELOADED = "configuration reloaded"
PENDING = "configuration reloaded, but some changed keys need a restart and stay as they were"


@pytest.fixture
async def nodes() -> AsyncIterator[list[FakeNode]]:
    primary = FakeNode("primary-1", role="metastore", lag=None)
    async with primary, FakeNode("replica-1") as first, FakeNode("replica-2") as second:
        yield [primary, first, second]


@pytest.fixture
async def router(tmp_path: Path, nodes: list[FakeNode]) -> AsyncIterator[Reloading]:
    primary, first, _ = nodes
    settings = {"primary": [primary.address], "replicas": [first.address]}
    async with reloading(tmp_path / "node.json", **settings) as made:
        yield made


async def serving(router: Reloading, *nodes: FakeNode) -> None:
    wanted = {node.address for node in nodes}

    def is_so() -> bool:
        now = router.node.client.backends()
        return wanted == {one.address for one in (*now.serving_primaries, *now.serving_replicas)}

    await until(is_so, router.node.client.backends)


async def read(router: Reloading, request: bytes = b"") -> str:
    """Make a call through the router; return who served it."""
    async with Caller(f"127.0.0.1:{router.node.config.grpc_listen_port}") as caller:
        return str((await caller.unary("IndexMetadata", request))[1]["x-metastore-served-by"])


async def test_backends_are_replaced(router: Reloading, nodes: list[FakeNode]) -> None:
    primary, first, second = nodes
    await serving(router, primary, first)
    assert await router.changed(replicas=[second.address])
    assert router.addresses == {primary.address, second.address}
    await serving(router, primary, second)
    assert await read(router) == "replica-2"
    assert await router.changed(replicas=[])
    assert router.addresses == {primary.address}
    assert router.counts == (2, 0, 1)


async def test_a_call_on_a_backend_that_is_replaced_ends_there(
    router: Reloading, nodes: list[FakeNode]
) -> None:
    primary, first, second = nodes
    await serving(router, primary, first)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_name: str, _raw: bytes, _context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return b""

    first.unary = hold
    calling = asyncio.create_task(read(router))
    await begun.wait()
    assert await router.changed(replicas=[second.address])
    await serving(router, primary, second)
    # Another request: an identical one would share the answer.
    assert await read(router, b"\x0a\x01i") == "replica-2"
    assert not calling.done()
    go_on.set()
    assert await calling == "replica-1"
    assert (first.calls["IndexMetadata"], first.cancelled) == (1, 0)


async def test_backends_that_stay_keep_their_connection(
    router: Reloading, nodes: list[FakeNode]
) -> None:
    primary, first, second = nodes
    await serving(router, primary, first)
    before = {one.address: one.joined for one in router.node.client.backends().backends}
    assert await router.changed(replicas=[first.address, second.address], max_lag="5s")
    for backend in router.node.client.backends().backends:
        if backend.address in before:
            assert (backend.joined, backend.is_serving) == (before[backend.address], True)


async def test_each_setting_takes_effect(router: Reloading) -> None:
    changed = {
        "max_lag": "7s",
        "serve_stale": False,
        "fallback_concurrency": 3,
        "retry_ratio": 0.1,
        "retry_reserve": 4,
        "hedge_delay": "70ms",
        "slow_start": "9s",
        "freshness_interval": "1s",
        "slow_query_threshold": "2s",
        "drain_timeout": "11s",
    }
    with written() as lines:
        assert await router.changed(**changed)
        (line,) = lines.of(RELOADED)
    assert line["changed"] == [
        'proxy.drain_timeout: "25s" -> "11s"',
        'proxy.max_lag: null -> "7s"',
        "proxy.serve_stale: true -> false",
        "proxy.fallback_concurrency: 32 -> 3",
        "proxy.retry_ratio: 0.18 -> 0.1",
        "proxy.retry_reserve: 10 -> 4",
        'proxy.hedge_delay: "0s" -> "70ms"',
        'proxy.slow_start: "5s" -> "9s"',
        'proxy.freshness_interval: "250ms" -> "1s"',
        'proxy.slow_query_threshold: "1s" -> "2s"',
    ]
    node = router.node
    options = node.client.options
    assert (options.max_lag, options.hedge_delay, options.freshness_interval) == (7.0, 0.07, 1.0)
    figures = node.client.figures()
    assert figures is not None
    assert (figures.fallback_limit, figures.retry_budget) == (3, 4.0)
    assert node.observer.slow_after == 2.0
    assert node.config.proxy.drain_timeout == 11.0


async def test_the_log_level_changes_and_the_change_is_told(router: Reloading) -> None:
    with written() as lines:
        assert await router.changed(log_level="error")
        assert await router.changed(log_level="error", max_lag="3s")
        assert await router.changed(log_level="info", max_lag="3s")
        told = [line["changed"] for line in lines.of(RELOADED)]
    assert told == [
        ['proxy.log_level: "info" -> "error"'],
        ['proxy.log_level: "error" -> "info"'],
    ]


async def test_what_needs_a_restart_is_named_each_time_and_stays(router: Reloading) -> None:
    before = router.node.config
    sections = {"grpc": {"max_message_size": "30 MiB"}, "peer_seeds": ["10.0.0.1"]}
    for _ in range(2):
        with written() as lines:
            router.write(sections, max_lag="5s", gossip=False)
            assert await router.reloader.reload()
            (line,) = lines.of(PENDING)
        assert line["level"] == "WARN"
        assert line["keys"] == ["peer_seeds", "grpc.max_message_size", "proxy.gossip"]
    now = router.node.config
    assert now.proxy.max_lag == 5.0
    assert (now.grpc, now.peer_seeds, now.proxy.gossip) == (before.grpc, (), True)


async def test_variables_are_looked_up_again(router: Reloading) -> None:
    router.environ["BOUND"] = "3s"
    assert await router.changed(max_lag="${BOUND}")
    assert router.node.config.proxy.max_lag == 3.0
    router.environ["BOUND"] = "4s"
    assert await router.reloader.reload()
    assert router.node.config.proxy.max_lag == 4.0


async def test_nothing_new_is_a_success(router: Reloading) -> None:
    with written() as lines:
        assert await router.reloader.reload()
        assert lines.of("configuration reloaded: no key has changed")
    assert router.counts == (1, 0, 1)


def proxy(**settings: Any) -> str:
    return json.dumps({"version": "0.8", "proxy": settings})


# What the file then holds, and what the log says of it.
BROKEN: dict[str, tuple[str | None, str]] = {
    "unparsable": ("{", "node.json"),
    "not there": (None, "node.json"),
    "an unknown key": (proxy(primary=["a:1"], max_lagg="1s"), "did you mean `max_lag`?"),
    "an invalid value": (proxy(primary=["a:1"], max_lag="soon"), "`proxy.max_lag`"),
    "an invalid target": (proxy(primary=["a"]), "`proxy.primary` item 1"),
    "no backend": (proxy(), "requires `proxy.primary` to be set"),
    "a variable that is not set": (proxy(primary=["${NOWHERE}:1"]), "NOWHERE"),
    "half of a change to gossip": (
        json.dumps({"version": "0.8", "peer_seeds": ["a"], "proxy": {"discovery": "gossip"}}),
        "the rest needs a restart: `peer_seeds`, `proxy.discovery`",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_file_changes_nothing(
    router: Reloading, nodes: list[FakeNode], broken: str
) -> None:
    primary, first, _ = nodes
    await serving(router, primary, first)
    before, options = router.node.config, router.node.client.options
    content, said = BROKEN[broken]
    if content is None:
        router.path.unlink()
    else:
        router.path.write_text(content, encoding="utf-8")
    with written() as lines:
        assert not await router.reloader.reload()
        (line,) = lines.of(REFUSED)
    assert line["level"] == "ERROR"
    assert said in line["error"]
    assert router.node.config is before
    assert router.node.client.options is options
    assert router.addresses == {primary.address, first.address}
    assert router.counts == (0, 1, 0)
    assert await read(router) == "replica-1"
    # And a good one mends it.
    assert await router.changed(max_lag="5s")
    assert router.counts == (1, 1, 1)


async def test_a_defect_in_reading_ends_nothing(router: Reloading) -> None:
    def burst() -> NodeConfig:
        raise RuntimeError("a defect")

    with written() as lines:
        assert not await Reloader(router.node, burst).reload()
        (line,) = lines.of(REFUSED)
    assert line["error"] == "unexpected error (RuntimeError)"
    assert "a defect" in line["exception"]


async def test_a_defect_in_taking_it_up_ends_neither_the_node_nor_later_reloads(
    router: Reloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare(_config: NodeConfig) -> Callable[[], None]:
        def commit() -> None:
            raise RuntimeError("a defect")

        return commit

    asked = asyncio.Event()
    task = asyncio.create_task(router.reloader.run(asked))
    try:
        with written() as lines, monkeypatch.context() as patched:
            patched.setattr(router.node, "prepare", prepare)
            router.write(max_lag="4s")
            asked.set()
            await until(lambda: router.counts == (0, 1, 0))
            (line,) = lines.of(IN_PART)
        assert (line["level"], line["error"]) == ("ERROR", "RuntimeError")
        assert "a defect" in line["exception"]
        router.write(max_lag="5s")
        asked.set()
        await until(lambda: router.node.config.proxy.max_lag == 5.0)
        assert await read(router)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_signals_in_quick_succession_end_with_the_last_file(router: Reloading) -> None:
    reading, go_on = threading.Event(), threading.Event()
    at_once = most = loads = 0

    def load() -> NodeConfig:
        nonlocal at_once, most, loads
        at_once, loads = at_once + 1, loads + 1
        most = max(most, at_once)
        found = router.load()
        reading.set()
        assert go_on.wait(20)
        at_once -= 1
        return found

    asked = asyncio.Event()
    task = asyncio.create_task(Reloader(router.node, load).run(asked))
    try:
        router.write(max_lag="1s")
        asked.set()
        await asyncio.to_thread(reading.wait, 20)
        # While the first is being read.
        for bound in ("2s", "3s", "4s"):
            router.write(max_lag=bound)
            asked.set()
        go_on.set()
        await until(lambda: router.node.config.proxy.max_lag == 4.0)
        assert (most, loads) == (1, 2)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_tls_files_are_part_of_all_or_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.issue("first")
    tls: dict[str, Any] = {
        "cert_path": str(first.cert),
        "key_path": str(first.key),
        "ca_path": str(authority.ca),
        "verify_client_cert": True,
    }
    # Nobody is there: the router opens all the same.
    settings = {"primary": ["127.0.0.1:1"]}
    async with reloading(
        tmp_path / "node.json", sections={"grpc": {"tls": tls}}, wait=False, **settings
    ) as router:
        before, config = presented(router), router.node.config
        router.write({"grpc": {"tls": {**tls, "cert_path": "/nowhere.crt"}}}, replicas=["a:1"])
        with written() as lines:
            assert not await router.reloader.reload()
            (line,) = lines.of(REFUSED)
        assert "cannot read `grpc.tls.cert_path` (/nowhere.crt)" in line["error"]
        assert (router.node.config, router.addresses) == (config, {"127.0.0.1:1"})
        # Other files.
        second = authority.issue("second", "second.example")
        other = {**tls, "cert_path": str(second.cert), "key_path": str(second.key)}
        router.write({"grpc": {"tls": other}})
        assert await router.reloader.reload()
        assert before == ("127.0.0.1",)
        assert presented(router) == ("second.example",)
        # The same files, renewed.
        channels = router.node.client.channels
        assert channels is not None
        generation = channels.generation
        authority.issue("second", "third.example")
        assert await router.reloader.reload()
        assert presented(router) == ("third.example",)
        assert channels.generation == generation + 1
        # A port does not become plain text.
        router.write({"grpc": {}})
        with written() as lines:
            assert await router.reloader.reload()
            (line,) = lines.of(PENDING)
        assert line["keys"] == ["grpc.tls"]
        assert router.node.config.grpc.tls is not None
    assert router.counts == (3, 1, 1)


def presented(router: Reloading) -> tuple[str, ...]:
    """Return the names of the certificate that the gRPC port presents."""
    assert router.node.tls.grpc is not None
    certificate = router.node.tls.grpc.certificate
    assert certificate is not None
    return certificate.names


async def test_a_new_password_is_no_part_of_any_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "postgresql://u:hunter2-secret@127.0.0.1:1/db"
    router = Reloading(tmp_path / "node.json", primary=["127.0.0.1:1"])
    with written("debug"):
        router.write({"metastore_uri": uri}, log_format="json")
        assert await router.reloader.reload()
        # The handler for the new format knows the new secret too.
        logging.getLogger("proxy").warning("as in %s", uri)
        *told, pending, later = map(json.loads, capsys.readouterr().err.splitlines())
    assert [line["message"] for line in told] == [RELOADED]
    assert (pending["message"], pending["keys"]) == (PENDING, ["metastore_uri"])
    assert later["message"] == "as in postgresql://u:***redacted***@127.0.0.1:1/db"


async def test_a_node_that_forwards_takes_it_up_as_well() -> None:
    settings = {"forward": True, "primary": ("127.0.0.1:1",), "replicas": ("127.0.0.1:2",)}
    config = node_config(Role.READ_REPLICA, "postgresql://u@127.0.0.1:1/db")
    before = replace(config, proxy=replace(config.proxy, **settings))
    node = Node(before)
    changed = {"replicas": (), "serve_stale": False, "min_lsn_wait": 2.0, "max_lag": 3.0}
    after = replace(before, proxy=replace(before.proxy, **changed))
    commit = await node.prepare(after)
    assert node.config is before
    commit()
    assert node.config is after
    (client,) = node.clients()
    assert client.options.max_lag == 3.0
    assert node._relay is not None
    assert (node._relay.serve_stale, node._freshness.min_lsn_wait) == (False, 2.0)
    assert node.observer.slow_after == 1.0
