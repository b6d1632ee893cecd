"""What goes through a router comes out as it went in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from proxy import errors
from proxy.routing.catalogue import RPCS
from tests.support.fake_node import fail
from tests.support.scripted_router import Setup, echo
from tests.support.waiting import until


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS.values() if not rpc.is_streaming], ids=str)
async def test_each_unary_rpc_passes_as_bytes_on_the_right_route(setup: Setup, rpc: Any) -> None:
    setup.script(echo)
    request = b"\xff\x00 these bytes are no message"
    answer, facts = await setup.caller.unary(rpc.name, request)
    assert answer == rpc.name.encode() + b"|" + request
    on_replica = rpc.is_stale_tolerant
    assert facts["x-metastore-route"] == ("replica" if on_replica else "primary")
    assert facts["x-metastore-served-by"].startswith("replica-" if on_replica else "primary-1")
    assert facts["x-metastore-role"] == ("metastore_read_replica" if on_replica else "metastore")


async def test_a_stream_passes_as_bytes(setup: Setup) -> None:
    messages = [b"\xff" + bytes([number]) * 100_000 for number in range(20)]

    async def stream(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    for node in setup.nodes:
        node.stream = stream
    call = setup.caller.stream("ListSplits", b"\x00")
    assert [message async for message in call] == messages
    assert dict(await call.trailing_metadata())["x-metastore-route"] == "replica"


async def test_the_callers_metadata_goes_along(setup: Setup) -> None:
    await setup.caller.unary("IndexMetadata", traceparent="00-abc-def-01", custom_bin_="x")
    (seen,) = [one for node in setup.replicas for one in node.metadata]
    assert seen["traceparent"] == "00-abc-def-01"
    assert seen["x-metastore-forwarded"].startswith("router-1/")


async def test_a_position_goes_along_and_a_bound_does_not(setup: Setup) -> None:
    await setup.caller.unary(
        "IndexMetadata", x_metastore_allow_replica="true", x_metastore_want_lsn="true"
    )
    await setup.caller.unary("CreateIndex")
    (read,) = [one for node in setup.replicas for one in node.metadata]
    (write,) = setup.primary.metadata
    assert read["x-metastore-want-lsn"] == "true"
    assert "x-metastore-want-lsn" not in write


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-metastore-max-lag", "soon"),
        ("x-metastore-min-lsn", "12"),
        ("x-metastore-allow-replica", "yes"),
        ("x-metastore-consistency", "strong"),
        ("x-metastore-want-lsn", "1"),
    ],
)
async def test_metadata_that_does_not_parse_is_refused(
    setup: Setup, header: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("IndexMetadata", **{header: value})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert header in (caught.value.details() or "")
    assert not any(node.calls for node in setup.nodes)


async def test_the_callers_deadline_holds_at_the_node(setup: Setup) -> None:
    left: list[float | None] = []

    async def note(_name: str, _raw: bytes, context: Any) -> bytes:
        left.append(context.time_remaining())
        return b""

    setup.script(note)
    await setup.caller.unary("CreateIndex", timeout=7.0)
    await setup.caller.unary("IndexMetadata", timeout=3.0)
    await setup.caller.unary("CreateIndex", timeout=None)
    assert left[0] is not None
    assert 6.0 < left[0] < 7.1
    assert left[1] is not None
    assert 2.0 < left[1] < 3.1
    assert left[2] is None or left[2] > 3600


async def test_a_call_past_its_deadline_is_ended_at_the_node(setup: Setup) -> None:
    async def hang(_name: str, _raw: bytes, _context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    setup.script(hang)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: setup.primary.cancelled == 1)


async def test_the_end_of_the_callers_call_ends_the_call_at_the_node(setup: Setup) -> None:
    started = asyncio.Event()

    async def hang(_name: str, _raw: bytes, _context: Any) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    setup.script(hang)
    for rpc in ("CreateIndex", "IndexMetadata"):
        started.clear()
        call = asyncio.create_task(setup.caller.unary(rpc, timeout=None))
        await started.wait()
        before = sum(node.cancelled for node in setup.nodes)
        call.cancel()
        await asyncio.wait({call})
        await until(lambda: sum(node.cancelled for node in setup.nodes) == before + 1)  # noqa: B023
    await until(lambda: setup.router.in_flight == 0)


async def test_leaving_a_stream_ends_it_at_the_node(setup: Setup) -> None:
    async def endless(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield bytes(500_000)

    for node in setup.nodes:
        node.stream = endless
    call = setup.caller.stream("ListSplits", timeout=None)
    assert len(await call.read()) == 500_000
    call.cancel()
    await until(lambda: sum(node.cancelled for node in setup.nodes) == 1)
    await until(lambda: setup.router.in_flight == 0)


@pytest.mark.parametrize("rpc", ["CreateIndex", "IndexMetadata"])
async def test_an_error_keeps_its_code_text_and_details(setup: Setup, rpc: str) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.NotFound(errors.index("missing")))
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary(rpc)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "index `missing` not found"
    payload = dict(caught.value.trailing_metadata() or ())["qw-error-bin"]
    assert payload == errors.NotFound(errors.index("missing")).to_json()
    assert sum(node.calls[rpc] for node in setup.nodes) == 1


async def test_an_error_of_a_later_version_passes_byte_for_byte(setup: Setup) -> None:
    payload = b'{"Quarantined":{"index_id":"i","until":5}}'

    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            "quarantined",
            (("qw-error-bin", payload), ("x-other", "kept")),
        )
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex")
    metadata = dict(caught.value.trailing_metadata() or ())
    assert metadata["qw-error-bin"] == payload
    assert metadata["x-other"] == "kept"
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "quarantined"


async def test_a_failed_read_goes_on_to_another_replica(setup: Setup) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Unavailable("going away"))
        return b""

    setup.replicas[0].unary = refuse
    setup.replicas[1].unary = echo
    for _ in range(5):
        answer, facts = await setup.caller.unary("IndexMetadata", b"x")
        assert answer == b"IndexMetadata|x"
        assert facts["x-metastore-served-by"] == "replica-2"


async def test_a_write_is_sent_once(setup: Setup) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Db("deadlock"))
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert setup.primary.calls["CreateIndex"] == 1


async def test_a_total_outage_is_unavailable_with_the_reason(setup: Setup) -> None:
    for node in setup.nodes:
        await node.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("IndexMetadata", timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    payload = dict(caught.value.trailing_metadata() or ())["qw-error-bin"]
    assert isinstance(payload, bytes)
    assert "Unavailable" in json.loads(payload)


async def test_a_request_over_the_limit_is_refused_as_by_a_node(setup: Setup) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex", bytes(20 * 1024 * 1024 + 1))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "grpc.max_message_size" in (caught.value.details() or "")


async def test_what_a_node_says_beside_its_answer_goes_along(setup: Setup) -> None:
    async def talkative(_name: str, _raw: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(
            (("x-other", "kept"), ("x-metastore-lsn", "16/B374D848"), ("x-metastore-lag", "0.5"))
        )
        return b""

    setup.script(talkative)
    for rpc in ("IndexMetadata", "CreateIndex"):
        _, facts = await setup.caller.unary(rpc)
        assert facts["x-other"] == "kept"
        assert facts["x-metastore-lsn"] == "16/B374D848"
        assert facts["x-metastore-lag"] == "0.500"
