"""The dispatcher over a real gRPC connection: decoding, errors, shedding, metrics, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message

from proxy import errors
from proxy.http2.server import Server, ServerLimits
from proxy.metrics import NodeMetrics
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS, Rpc
from proxy.server.dispatch import Dispatcher, node_metadata
from proxy.server.listening import listening_sockets
from proxy.server.shedding import Shedder
from tests.support.waiting import until

MAX_MESSAGE_SIZE = 1_000_000


class Scripted:
    """A metastore whose answers the test sets."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.answer: Message = pb.GetIndexTemplateResponse(index_template_json="{}")
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = 0
        self.ended = 0

    async def unary(self, rpc: Rpc, request: Message) -> Message:
        self.started += 1
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            return self.answer
        finally:
            self.ended += 1

    async def stream(self, rpc: Rpc, request: Message) -> AsyncIterator[Message]:
        self.started += 1
        try:
            for number in range(3):
                yield pb.ListSplitsResponse(splits_serialized_json=f"[{number}]")
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.ended += 1


class Served:
    """A server with a scripted metastore, and a channel to it."""

    def __init__(self, metastore: Scripted, metrics: NodeMetrics, channel: grpc.aio.Channel):
        self.metastore = metastore
        self.metrics = metrics
        self.channel = channel

    async def raw(self, rpc_name: str, request: bytes) -> tuple[bytes, dict[str, str | bytes]]:
        call = self.channel.unary_unary(RPCS[rpc_name].path)(request, timeout=10)
        answer = await call
        return answer, dict(await call.trailing_metadata())

    def series(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def counted(self, rpc: str, status: str, code: str) -> float | None:
        return self.series(
            "quickwit_grpc_requests_total",
            service="metastore",
            grpc_service="metastore",
            kind="server",
            metastore_kind="primary",
            rpc=rpc,
            status=status,
            code=code,
        )


@asynccontextmanager
async def serving(*, limit: int = 20) -> AsyncIterator[Served]:
    metastore, metrics = Scripted(), NodeMetrics(Role.METASTORE)
    dispatcher = Dispatcher(
        lambda: metastore,
        lambda: lambda: node_metadata("node-1", "metastore", 0.25),
        shedder=Shedder(limit),
        metrics=metrics,
        max_message_size=MAX_MESSAGE_SIZE,
    )
    server = Server(ServerLimits(message=2 * MAX_MESSAGE_SIZE))
    server.add_generic_rpc_handlers((dispatcher.generic_handler(),))
    (listener,) = listening_sockets("127.0.0.1", 0)
    await server.open((listener,))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            yield Served(metastore, metrics, channel)
    finally:
        await server.stop(0)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as running:
        yield running


def error_of(error: grpc.aio.AioRpcError) -> object:
    payload = dict(error.trailing_metadata() or ())["qw-error-bin"]
    assert isinstance(payload, bytes)
    return json.loads(payload)


async def test_an_answer_says_who_served_it(served: Served) -> None:
    answer, metadata = await served.raw("GetIndexTemplate", b"")
    assert pb.GetIndexTemplateResponse.FromString(answer).index_template_json == "{}"
    assert metadata["x-metastore-served-by"] == "node-1"
    assert metadata["x-metastore-role"] == "metastore"
    assert metadata["x-metastore-lag"] == "0.250"
    assert served.counted("get_index_template", "success", "ok") == 1


async def test_a_metastore_error_has_code_message_and_payload(served: Served) -> None:
    served.metastore.failure = errors.NotFound(errors.index_template("t"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", b"")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "index template `t` not found"
    assert error_of(caught.value) == {"NotFound": {"index_template": {"template_id": "t"}}}
    assert dict(caught.value.trailing_metadata() or ())["x-metastore-served-by"] == "node-1"
    assert served.counted("get_index_template", "error", "not_found") == 1


SPLIT_IDS = [f"01J5ZQ5B0C1D2E3F4G5H6{number:05}" for number in range(1000)]
LONG = "☃" * 2000


@pytest.mark.parametrize(
    "failure",
    [
        errors.FailedPrecondition(errors.splits(SPLIT_IDS), LONG),
        errors.FailedPrecondition(errors.source(LONG, LONG), LONG),
        errors.Internal(LONG, LONG),
        errors.NotFound(errors.index(LONG)),
    ],
    ids=["splits", "source", "internal", "index"],
)
async def test_the_longest_error_arrives_whole(
    served: Served, failure: errors.MetastoreError
) -> None:
    served.metastore.failure = failure
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", b"")
    assert caught.value.code().value[0] == failure.code
    assert error_of(caught.value) == json.loads(failure.to_json())
    # The gRPC core refuses more than this at random, and counts 32 bytes for each field.
    fields = [*(caught.value.trailing_metadata() or ()), ("grpc-message", "")]
    taken = sum(len(key) + len(value) * 4 // 3 + 32 for key, value in fields)
    text = len(quote(caught.value.details() or "", safe=" "))
    assert taken + text + 512 < 8192


async def test_a_defect_is_answered_without_its_trace(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.metastore.failure = KeyError("secret detail")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", b"")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert error_of(caught.value) == {
        "Internal": {"message": "unexpected error", "cause": "KeyError"}
    }
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    "request_bytes",
    [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"],
    ids=["bad tag", "truncated", "invalid UTF-8"],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    served: Served, request_bytes: bytes
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", request_bytes)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "GetIndexTemplateRequest" in str(error_of(caught.value))
    assert served.metastore.started == 0


async def test_a_request_over_the_limit_is_an_invalid_argument(served: Served) -> None:
    request = pb.GetIndexTemplateRequest(template_id="x" * MAX_MESSAGE_SIZE).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", request)
    assert "grpc.max_message_size" in str(error_of(caught.value))
    assert served.metastore.started == 0


async def test_an_answer_over_the_limit_is_an_error_that_says_so(served: Served) -> None:
    served.metastore.answer = pb.GetIndexTemplateResponse(
        index_template_json="x" * MAX_MESSAGE_SIZE
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.raw("GetIndexTemplate", b"")
    assert "grpc.max_message_size" in str(error_of(caught.value))


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    call = served.channel.unary_unary("/quickwit.metastore.MetastoreService/Nope")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_is_sent_message_by_message(served: Served) -> None:
    call = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
    texts = [
        pb.ListSplitsResponse.FromString(message).splits_serialized_json async for message in call
    ]
    assert texts == ["[0]", "[1]", "[2]"]
    assert dict(await call.trailing_metadata())["x-metastore-served-by"] == "node-1"


async def test_an_error_after_messages_ends_the_stream_with_its_payload(served: Served) -> None:
    served.metastore.failure = errors.Internal("failed to fetch splits", "gone")
    call = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
    messages = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for message in call:
            messages.append(message)
    assert len(messages) == 3
    assert error_of(caught.value) == {
        "Internal": {"message": "failed to fetch splits", "cause": "gone"}
    }


async def test_a_cancelled_stream_closes_its_source(served: Served) -> None:
    served.metastore.gate.clear()
    call = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
    await call.read()
    call.cancel()
    await until(lambda: served.metastore.ended == 1)
    await until(lambda: served.counted("list_splits", "cancelled", "cancelled") == 1)


async def test_a_cancelled_call_cancels_its_work(served: Served) -> None:
    served.metastore.gate.clear()
    call = served.channel.unary_unary(RPCS["GetIndexTemplate"].path)(b"", timeout=10)
    await until(lambda: served.metastore.started == 1)
    call.cancel()
    await until(lambda: served.metastore.ended == 1)
    await until(lambda: served.counted("get_index_template", "cancelled", "cancelled") == 1)


async def test_a_call_past_the_bound_is_shed_and_not_counted() -> None:
    async with serving(limit=1) as served:
        served.metastore.gate.clear()
        held = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
        await held.read()
        second = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_of(caught.value) == "TooManyRequests"
        assert served.counted("list_splits", "error", "resource_exhausted") is None
        assert served.series("metastore_proxy_shed_requests_total", rpc="list_splits") == 1
        served.metastore.gate.set()
        while await held.read() is not grpc.aio.EOF:
            pass
        third = served.channel.unary_stream(RPCS["ListSplits"].path)(b"", timeout=10)
        assert len([message async for message in third]) == 3
