"""Who the primary is, where all nodes speak TLS: to each other, and to `metastore-proxy status`."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.client import ClientTls
from proxy.client.asking import ask_node, opened
from proxy.commands.status import run as status
from proxy.config import GrpcSettings, NodeConfig, TlsSettings
from proxy.lifecycle import NodeLifecycle
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from proxy.unanswered import NoAnswerError
from tests.support.certificates import Authority, tls_settings
from tests.support.members import member_config, seed_of
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.routers import routing


class Secured:
    """Configs with mutual TLS, the certificate for 127.0.0.1 unless it is for a `name` alone."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        tls = self.tls("127.0.0.1")
        self.client = ClientTls.from_config(tls)
        self.section = {
            "cert_path": tls.cert_path,
            "key_path": tls.key_path,
            "ca_path": tls.ca_path,
            "verify_client_cert": True,
        }

    def tls(self, name: str) -> TlsSettings:
        return tls_settings(self.authority.issue(name, name), self.authority.ca)

    def config(
        self,
        role: Role,
        uri: str,
        node_id: str,
        *seeds: str,
        name: str = "127.0.0.1",
        **proxy: Any,
    ) -> NodeConfig:
        grpc = GrpcSettings(tls=self.tls(name))
        return member_config(role, uri, node_id, seeds, proxy=proxy, grpc=grpc)

    async def ask(self, whom: str) -> pb.GetClusterInfoResponse:
        async with opened(self.client) as channels:
            question = (pb.GetClusterInfoRequest(), pb.GetClusterInfoResponse)
            return await ask_node(whom, "GetClusterInfo", *question, channels=channels)


def asked(**given: Any) -> Namespace:
    return Namespace(**{"node": None, "config": None, "json": False, "watch": False, **given})


async def test_without_gossip_nodes_and_status_ask_by_tls(
    migrated_database: Scratch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secured = Secured(tmp_path)
    uris = migrated_database.primary_uri, migrated_database.standby_uri
    config = secured.config(Role.METASTORE, uris[0], "m", name="localhost", gossip=False)
    by_host = f"localhost:{config.grpc_listen_port}"
    by_name = f"dns:///{by_host}"
    async with AsyncExitStack() as stack:
        metastore = await stack.enter_async_context(running(config))
        own = await secured.ask(by_host)
        # A replica that passes nothing on has no client, and looks the name up itself.
        replica = secured.config(Role.READ_REPLICA, uris[1], "r", gossip=False, primary=(by_name,))
        nodes: list[NodeLifecycle] = [await stack.enter_async_context(running(replica, wait=False))]
        for node_id, primary in (("x", by_host), ("y", by_name)):
            router = secured.config(Role.ROUTER, "", node_id, gossip=False, primary=(primary,))
            nodes.append(await stack.enter_async_context(routing(router)))
        for node in nodes:
            answer = await secured.ask(address(node))
            assert answer.source == "static"
            assert list(answer.primaries) == list(own.primaries)
        path = tmp_path / "status.json"
        document: dict[str, Any] = {
            "version": "0.8",
            "enabled_services": ["metastore_router"],
            "grpc_listen_port": nodes[1].config.grpc_listen_port,
            "grpc": {"tls": secured.section},
            "proxy": {"primary": [by_host]},
        }
        path.write_text(json.dumps(document))
        for given in ({}, {"node": address(nodes[2])}):
            assert await status(asked(config=path, **given)) == 0
            assert f"primary: m at {address(metastore)}\n" in capsys.readouterr().out
        with pytest.raises(NoAnswerError, match="speaks TLS, and this side plain text"):
            await status(asked(node=address(metastore)))


async def test_members_of_the_cluster_are_backends_by_tls(
    migrated_database: Scratch, tmp_path: Path
) -> None:
    secured = Secured(tmp_path)
    uri = migrated_database.primary_uri
    async with running(secured.config(Role.METASTORE, uri, "m")) as metastore:
        config = secured.config(
            Role.ROUTER, "", "x", *seed_of(metastore), discovery="gossip", primary=()
        )
        async with routing(config) as router:
            answer = await secured.ask(address(router))
            assert answer.source == "gossip"
            assert [one.grpc_address for one in answer.primaries] == [address(metastore)]
            (backend,) = router.client.backends().serving_primaries
            assert backend.address == address(metastore)
            counts = {
                state: router.metrics.registry.get_sample_value(f"quickwit_cluster_{state}_nodes")
                for state in ("live", "ready", "dead", "zombie")
            }
            assert counts == {"live": 2, "ready": 2, "dead": 0, "zombie": 0}
