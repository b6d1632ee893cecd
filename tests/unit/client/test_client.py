"""What the client is before it is opened: its targets, its options, its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.client import ClientOptions, RoutingClient
from proxy.client.methods import METHODS
from proxy.config.model import GrpcSettings, NodeConfig, ProxySettings
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.routing.members import Snapshot


def test_the_library_loads_no_server_store_or_metrics() -> None:
    script = (
        "import sys, proxy.client\n"
        "found = {'asyncpg', 'prometheus_client', 'aiohttp', 'yaml', 'zstandard',\n"
        "         'proxy.store', 'proxy.server', 'proxy.config', 'proxy.gossip',\n"
        "         'grpc_health.v1.health'}\n"
        "found &= set(sys.modules)\n"
        "sys.exit(f'loaded: {found}' if found else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("primary", "replicas", "text"),
    [
        (["nonsense"], [], "primary: target 'nonsense'"),
        (["p:1"], ["r:1", "http://r:1"], "replicas: target 'http://r:1'"),
        ("p:1", [], "primary must be a list"),
        ([], [], "both empty"),
    ],
)
def test_malformed_targets_are_refused(primary: list[str], replicas: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RoutingClient(primary, replicas)


async def test_targets_and_message_size_come_from_the_configuration() -> None:
    def config(*replicas: str) -> NodeConfig:
        return NodeConfig(
            role=Role.METASTORE,
            grpc=GrpcSettings(max_message_size=1_000_000),
            proxy=ProxySettings(primary=("127.0.0.1:1",), replicas=replicas),
        )

    with pytest.raises(ValueError, match="'bad'"):
        RoutingClient.from_config(config("bad"))
    client = RoutingClient.from_config(config("127.0.0.1:2"), allow_writes=True)
    assert client.backends() == Snapshot()
    assert client.options.max_message_size == 1_000_000
    async with client:
        found = {(b.role.value, b.address) for b in client.backends().backends}
    assert found == {("primary", "127.0.0.1:1"), ("replica", "127.0.0.1:2")}


async def test_calls_are_checked_before_they_are_made() -> None:
    client = RoutingClient(["p:1"])
    with pytest.raises(ValueError, match="'Nonsense' is not an RPC"):
        await client.call("Nonsense", pb.IndexMetadataRequest())
    with pytest.raises(ValueError, match="ListSplits is made with `stream`"):
        await client.call("ListSplits", pb.ListSplitsRequest())
    with pytest.raises(ValueError, match="IndexMetadata is made with `call`"):
        client.stream("IndexMetadata", pb.IndexMetadataRequest())
    with pytest.raises(TypeError, match="takes a IndexMetadataRequest, got a ListSplitsRequest"):
        await client.call("IndexMetadata", pb.ListSplitsRequest())


def test_every_rpc_has_its_messages() -> None:
    assert set(METHODS) == set(RPCS)
    assert METHODS["CreateDeleteTask"].request is pb.DeleteQuery


@pytest.mark.parametrize(
    "name", ["hold_bytes", "attempt_timeout", "connect_timeout", "resolve_interval"]
)
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_options_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ClientOptions(**{name: value})


def test_the_limit_of_a_message_leaves_room_for_its_frame() -> None:
    limits = ClientOptions(max_message_size=1_000_000).channel_limits()
    assert limits.message > 1_000_000
