"""Asking the nodes that a target names, when they are not there or talk nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from proxy.client.asking import ask_node, ask_target
from proxy.client.discovery import Resolve
from proxy.demo.postgres_host import free_port
from proxy.errors import MetastoreError
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.targets import parse_target
from proxy.unanswered import NoAnswerError
from tests.support.fake_node import PROXY_SERVICE


async def ask(
    target: str, resolve: Resolve, *, timeout: float = 5.0
) -> dict[str, pb.GetClusterInfoResponse | NoAnswerError | MetastoreError]:
    came = await ask_target(
        *(parse_target(target), "GetClusterInfo", pb.GetClusterInfoRequest()),
        pb.GetClusterInfoResponse,
        timeout=timeout,
        resolve=resolve,
    )
    return dict(came)


async def test_every_address_of_a_name_is_asked() -> None:
    port = free_port()

    async def two(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1", "127.0.0.2"]

    came = await ask(f"dns:///metastore:{port}", two)
    assert list(came) == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    for address, error in came.items():
        assert isinstance(error, NoAnswerError)
        assert str(error) == f"{address} does not answer GetClusterInfo: {error.reason}"
        assert not error.is_stranger


async def nothing(_host: str, _port: int) -> Sequence[str]:
    raise OSError("name or service not known")


async def too_long(_host: str, _port: int) -> Sequence[str]:
    raise UnicodeError("label too long")


async def never(_host: str, _port: int) -> Sequence[str]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("resolve", "reason"),
    [
        (nothing, "the name has no address: name or service not known"),
        (too_long, "the name has no address: label too long"),
        (never, "the name is not resolved within 0.05 s"),
    ],
)
async def test_a_name_without_an_address_is_told(resolve: Resolve, reason: str) -> None:
    came = await ask("dns:///metastore:7281", resolve, timeout=0.05)
    (error,) = came.values()
    assert list(came) == ["dns:///metastore:7281"]
    assert isinstance(error, NoAnswerError)
    assert error.reason == reason


async def test_an_answer_that_does_not_parse_is_none() -> None:
    async def nonsense(_request: bytes, _context: object) -> bytes:
        return b"\xff"

    server = grpc.aio.server()
    handlers = {"GetClusterInfo": grpc.unary_unary_rpc_method_handler(nonsense)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(PROXY_SERVICE, handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(NoAnswerError, match="its answer does not parse") as caught:
            await ask_node(
                *(f"127.0.0.1:{port}", "GetClusterInfo", pb.GetClusterInfoRequest()),
                pb.GetClusterInfoResponse,
            )
        assert caught.value.is_stranger
    finally:
        await server.stop(None)
