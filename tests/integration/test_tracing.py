"""One tree of spans for a call, from its caller through the nodes to the statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import get_current_span

from proxy import errors
from proxy.client import RoutingClient
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.fake_node import FakeNode, fail
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch
from tests.support.routers import Caller, router_config, routing
from tests.support.spans import Spans, drawn, recorded, trace_id_of
from tests.support.splitting import query

LIST_INDEXES = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString()
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as found:
        yield found


class Nodes:
    def __init__(self, primary: Node, replica: Node) -> None:
        self.primary = primary
        self.replica = replica


@pytest.fixture
async def nodes(clean: Scratch) -> AsyncIterator[Nodes]:
    """A primary's node, and a replica's node that passes on what it cannot serve."""
    async with AsyncExitStack() as stack:
        config = node_config(Role.METASTORE, clean.primary_uri, node_id="primary-1")
        config = replace(config, proxy=replace(config.proxy, shutdown_delay=0.0))
        primary = await stack.enter_async_context(running(config))
        config = node_config(Role.READ_REPLICA, clean.standby_uri, node_id="replica-1")
        proxy = replace(config.proxy, forward=True, primary=(address(primary),), shutdown_delay=0.0)
        replica = await stack.enter_async_context(running(replace(config, proxy=proxy)))
        yield Nodes(primary, replica)


async def test_a_routed_list_of_splits_is_one_tree(nodes: Nodes, spans: Spans) -> None:
    config = router_config([address(nodes.primary)], [address(nodes.replica)])
    async with routing(config) as router, RoutingClient([address(router)]) as client:
        await client.wait_ready()
        await router.client.wait_until(lambda now: bool(now.serving_replicas))
        with spans.tracer.start_as_current_span("search"):
            trace_id = get_current_span().get_span_context().trace_id
            stream = client.stream("ListSplits", query())
            assert [message async for message in stream] == []
        found = await spans.of_trace(trace_id, 6)
    assert drawn(found) == [
        "internal search",
        # The client takes the router for a primary; the router's attempt tells the real route.
        "  client ListSplits fallback",
        "    server ListSplits router-1",
        "      client ListSplits replica",
        "        server ListSplits replica-1",
        "          client splits/list",
    ]
    statement = next(one for one in found if one.name == "splits/list")
    assert dict(statement.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.query.summary": "splits/list",
        "db.response.returned_rows": 0,
        "metastore.sql_seconds": pytest.approx(0, abs=60),
    }


async def call(router: Any, rpc: str, request: bytes, **metadata: str) -> dict[str, Any]:
    async with Caller(address(router)) as caller:
        _, facts = await caller.unary(rpc, request, **metadata)
    return facts


async def test_a_unary_read_continues_the_callers_trace(nodes: Nodes, spans: Spans) -> None:
    config = router_config([address(nodes.primary)], [address(nodes.replica)])
    async with routing(config) as router:
        await router.client.wait_until(lambda now: bool(now.serving_replicas))
        metadata = {"traceparent": PARENT, "tracestate": "vendor=1"}
        await call(router, "ListIndexesMetadata", LIST_INDEXES, **metadata)
        found = await spans.of_trace(int(TRACE, 16), 4)
    assert drawn(found) == [
        "server ListIndexesMetadata router-1",
        "  client ListIndexesMetadata replica",
        "    server ListIndexesMetadata replica-1",
        "      client indexes/list",
    ]
    root = next(
        one for one in found if (one.attributes or {}).get("metastore.node_id") == "router-1"
    )
    assert root.parent is not None
    assert root.parent.is_remote
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert all(one.context and one.context.trace_state.get("vendor") == "1" for one in found)


async def test_a_retried_read_has_two_attempts_one_of_them_failed(
    nodes: Nodes, spans: Spans
) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Unavailable("password=hunter2"))
        raise AssertionError

    async with FakeNode("broken") as broken:
        broken.unary = refuse
        config = router_config([address(nodes.primary)], [broken.address])
        async with routing(config) as router:
            await router.client.wait_until(lambda now: bool(now.serving_replicas))
            await router.client.wait_until(lambda now: bool(now.serving_primaries))
            facts = await call(router, "ListIndexesMetadata", LIST_INDEXES, traceparent=PARENT)
            found = await spans.of_trace(int(TRACE, 16), 5)
    assert facts["x-metastore-served-by"] == "primary-1"
    assert drawn(found) == [
        "server ListIndexesMetadata router-1",
        "  client ListIndexesMetadata replica failed: Unavailable",
        "  client ListIndexesMetadata fallback",
        "    server ListIndexesMetadata primary-1",
        "      client indexes/list",
    ]
    assert "hunter2" not in "".join(one.to_json() for one in found)
    first, second = (one for one in found if (one.attributes or {}).get("metastore.attempt"))
    assert broken.metadata[0]["traceparent"] == f"00-{TRACE}-{_span_id(first)}-01"
    assert _span_id(first) != _span_id(second)


def _span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


async def test_a_forwarded_read_is_one_tree(nodes: Nodes, spans: Spans) -> None:
    request = pb.ListIndexTemplatesRequest().SerializeToString()
    await call(nodes.replica, "ListIndexTemplates", request, traceparent=PARENT)
    assert drawn(await spans.of_trace(int(TRACE, 16), 4)) == [
        "server ListIndexTemplates replica-1",
        "  client ListIndexTemplates primary",
        "    server ListIndexTemplates primary-1",
        "      client templates/list",
    ]


async def test_a_failure_names_the_code_and_nothing_of_its_text(nodes: Nodes, spans: Spans) -> None:
    request = pb.GetIndexTemplateRequest(template_id="who-asks-for-this").SerializeToString()
    async with Caller(address(nodes.primary)) as caller:
        with pytest.raises(errors.NotFound):
            await caller.read("GetIndexTemplate", request, timeout=10)
    served = next(one for one in spans.ended if one.kind.name == "SERVER")
    found = await spans.of_trace(int(trace_id_of(served), 16), 2)
    assert drawn(found) == [
        "server GetIndexTemplate primary-1 failed: NOT_FOUND",
        "  client templates/get",
    ]
    assert "who-asks" not in "".join(one.to_json() for one in found)


async def test_what_the_caller_does_not_sample_is_not_recorded_but_passed_on(
    spans: Spans,
) -> None:
    async with (
        FakeNode("primary-1", role="metastore") as node,
        routing(router_config([node.address])) as router,
    ):
        await call(router, "ListIndexesMetadata", b"", traceparent=f"{PARENT[:-2]}00")
        await call(router, "ListIndexesMetadata", b"", traceparent="nonsense")
    unsampled, broken = (one["traceparent"] for one in node.metadata)
    assert unsampled.startswith(f"00-{TRACE}-")
    assert unsampled.endswith("-00")
    assert unsampled != f"{PARENT[:-2]}00"
    # What cannot be continued begins anew.
    roots = [one for one in spans.ended if one.parent is None]
    assert [trace_id_of(one) for one in roots] == [broken.split("-")[1]]
    assert len(spans.ended) == 2


async def test_without_a_tracer_the_callers_context_goes_on_as_it_came() -> None:
    sent = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "a=1"}
    async with (
        FakeNode("primary-1", role="metastore") as node,
        routing(router_config([node.address])) as router,
    ):
        await call(router, "ListIndexesMetadata", b"", **sent)
    assert {key: node.metadata[0].get(key) for key in sent} == sent
