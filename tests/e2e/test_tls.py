"""Mutual TLS from the client through a router and a replica to the primary, on a real pair."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy import errors
from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.demo import dataset
from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.certificates import Authority, Issued, replace_file
from tests.support.postgres import Scratch
from tests.support.waiting import until

POLL = 0.1
ROLES = {
    "metastore-1": Role.METASTORE,
    "replica-1": Role.READ_REPLICA,
    "router-1": Role.ROUTER,
}


@dataclass
class Cluster:
    """Three nodes as processes, each with a certificate of its own, at debug level."""

    directory: Path
    authority: Authority
    ca: Path
    nodes: dict[str, NodeProcess]
    keys: list[str]

    @property
    def router(self) -> NodeProcess:
        return self.nodes["router-1"]

    def issue(self, name: str, authority: Authority | None = None) -> Issued:
        issued = (authority or self.authority).issue(name)
        self.keys.append(issued.key.read_text())
        return issued

    def client(self, target: str, **tls: Any) -> RoutingClient:
        files = {
            "ca_path": str(self.ca),
            "cert_path": str(self.directory / "client.crt"),
            "key_path": str(self.directory / "client.key"),
            "poll_interval": POLL,
        }
        # The wait for a backend that does not come is what the refusals would take.
        options = ClientOptions(tls=ClientTls(**{**files, **tls}), connect_timeout=0.4)
        return RoutingClient([target], allow_writes=True, options=options)

    def output(self) -> str:
        return "\n".join(node.log_path.read_text(encoding="utf-8") for node in self.nodes.values())


@pytest.fixture
async def cluster(migrated_database: Scratch, tmp_path: Path) -> AsyncIterator[Cluster]:
    authority = Authority(tmp_path)
    ca = tmp_path / "trusted.pem"
    replace_file(ca, authority.ca.read_bytes())
    made = Cluster(tmp_path, authority, ca, {}, [])
    made.issue("client")
    for name, role in ROLES.items():
        own = made.issue(name)
        section = {
            "tls": {
                "cert_path": str(own.cert),
                "key_path": str(own.key),
                "ca_path": str(ca),
                "verify_client_cert": True,
                "cert_poll_interval": f"{int(POLL * 1000)}ms",
            }
        }
        proxy: dict[str, Any] = {"log_level": "debug", "log_format": "json"}
        if role is Role.ROUTER:
            proxy["primary"] = [made.nodes["metastore-1"].address]
            proxy["replicas"] = [made.nodes["replica-1"].address]
        config = tmp_path / f"{name}.json"
        document = {
            "version": "0.8",
            "enabled_services": [role.value],
            "grpc": section,
            "rest": section,
            "proxy": proxy,
        }
        config.write_text(json.dumps(document), encoding="utf-8")
        environ = {
            "QW_METASTORE_URI": migrated_database.primary_uri,
            "QW_METASTORE_READ_REPLICA_URI": migrated_database.standby_uri,
        }
        made.nodes[name] = NodeProcess(name, role, tmp_path, environ, config=config)
    async with AsyncExitStack() as stack:
        for node in made.nodes.values():
            node.start()
            stack.push_async_callback(node.terminate)
        yield made


async def test_mutual_tls_end_to_end(cluster: Cluster) -> None:
    async with cluster.client(cluster.router.address) as client:
        await client.wait_ready(30.0)
        uid = await create_index(client)
        await until(lambda: read_from_replica(client, uid), timeout=30.0)
        await rotate_under_load(cluster, client, uid)
    await refuse_strangers(cluster)
    await rest_demands_a_certificate(cluster)
    explained = run_cli(cluster, "explain", "ListSplits", "--router", cluster.router.address)
    assert "ListSplits goes to the replica" in explained
    called = run_cli(cluster, "call", "ListIndexesMetadata", '{"index_id_patterns": ["*"]}')
    assert "indexes_metadata_json_zstd" in called
    for node in cluster.nodes.values():
        await node.terminate()
    assert_no_key_in(cluster.output() + explained + called, cluster.keys)


async def create_index(client: RoutingClient) -> str:
    config = json.loads(dataset.index_config())
    request = pb.CreateIndexRequest(index_config_json=json.dumps(config))
    answer = await client.create_index(request)
    assert answer.served_by == "metastore-1"
    return str(config["index_id"])


async def read_from_replica(client: RoutingClient, index_id: str) -> bool:
    try:
        answer = await client.index_metadata(pb.IndexMetadataRequest(index_id=index_id))
    except errors.NotFound:
        # The standby replays.
        return False
    return answer.served_by == "replica-1"


async def rotate_under_load(cluster: Cluster, client: RoutingClient, index_id: str) -> None:
    """Replace the CA and every certificate, step by step, while calls go on; none may fail."""
    served: dict[str, int] = {}
    is_over = False

    async def work() -> None:
        while not is_over:
            request = pb.IndexMetadataRequest(index_id=index_id)
            answer = await client.index_metadata(request, timeout=20.0)
            served[answer.served_by] = served.get(answer.served_by, 0) + 1
            await asyncio.sleep(0.005)

    new = Authority(cluster.directory, "new")
    old_and_new = cluster.authority.ca.read_bytes() + new.ca.read_bytes()

    def issue_all() -> None:
        for name in ("client", *ROLES):
            cluster.issue(name, new)

    steps = [
        lambda: replace_file(cluster.ca, old_and_new),
        issue_all,
        lambda: replace_file(cluster.ca, new.ca.read_bytes()),
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())
            try:
                for number, step in enumerate(steps, 1):
                    step()
                    await until(lambda number=number: has_reloaded(cluster, number))
                    enough = sum(served.values()) + 50
                    await until(lambda enough=enough: sum(served.values()) >= enough)
            finally:
                is_over = True
    finally:
        cluster.authority = new
    assert set(served) == {"replica-1"}


def has_reloaded(cluster: Cluster, times: int) -> bool:
    """Whether every port, and every client, has taken up that many changes."""
    for name, node in cluster.nodes.items():
        lines = node.log_path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if '"TLS files reloaded"' in line]
        # A file at a time may be seen, so there may be more.
        holders = 3 if ROLES[name] is Role.ROUTER else 2
        if len(found) < holders * times:
            return False
    return True


async def refuse_strangers(cluster: Cluster) -> None:
    """Each way to be wrong is told on both sides; the same matrix in detail is in `test_tls`."""
    theirs = Authority(cluster.directory, "theirs").issue("stranger")
    expired = cluster.authority.issue_expired("expired")
    for tls, told, logged in (
        ({"cert_path": "", "key_path": ""}, "demands a client certificate", "presented no cert"),
        (
            {"cert_path": str(theirs.cert), "key_path": str(theirs.key)},
            "it is not signed by a CA of the `ca_path` there",
            "the client's certificate is not signed by a CA",
        ),
        (
            {"cert_path": str(expired.cert), "key_path": str(expired.key)},
            "it has expired (valid until 2020-12-31",
            "the client's certificate has expired",
        ),
        (
            {"expected_name": "other.local"},
            "is not for other.local but for 127.0.0.1",
            "it is not good for the address or name",
        ),
    ):
        for node in (cluster.router, cluster.nodes["replica-1"]):
            async with cluster.client(node.address, **tls) as client:
                await until(lambda client=client: client.backends().backends[0].trouble)
                request = pb.IndexMetadataRequest(index_id="x")
                with pytest.raises(errors.Unavailable) as raised:
                    await client.index_metadata(request, timeout=10.0)
                assert told in str(raised.value)
                text = node.log_path
                await until(lambda text=text, logged=logged: logged in text.read_text())


async def rest_demands_a_certificate(cluster: Cluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.ca))
    url = f"{cluster.router.rest_url.replace('http:', 'https:')}/health/readyz"
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(url, ssl=context)
        client = cluster.directory / "client"
        context.load_cert_chain(client.with_suffix(".crt"), client.with_suffix(".key"))
        async with http.get(url, ssl=context) as response:
            assert (response.status, await response.json()) == (200, True)


def run_cli(cluster: Cluster, *arguments: str) -> str:
    command = [sys.executable, "-m", "proxy", *arguments]
    command += ["--config", str(cluster.directory / "router-1.json")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def assert_no_key_in(output: str, keys: list[str]) -> None:
    assert len(output) > 10_000
    for key in keys:
        lines = [line for line in key.splitlines() if line and "-----" not in line]
        assert len(lines) > 1
        for line in lines:
            assert line not in output
        raw = base64.b64decode("".join(lines))
        assert raw.hex() not in output
    assert "PRIVATE KEY" not in output


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("missing", "cannot read `grpc.tls.key_path` ({key}): no such file or directory"),
        ("mismatch", "the private key of `grpc.tls.key_path` ({key}) does not match"),
    ],
)
def test_a_node_with_bad_files_does_not_start(tmp_path: Path, spoil: str, told: str) -> None:
    authority = Authority(tmp_path)
    own, other = authority.issue("node"), authority.issue("other")
    keys = [own.key.read_text(), other.key.read_text()]
    if spoil == "missing":
        own.key.unlink()
    else:
        replace_file(own.key, other.key.read_bytes())
    config = tmp_path / "node.json"
    tls = {"cert_path": str(own.cert), "key_path": str(own.key)}
    document = {"version": "0.8", "grpc": {"tls": tls}, "metastore_uri": "postgresql://u@h/d"}
    config.write_text(json.dumps(document), encoding="utf-8")
    for command in ("run", "check-config"):
        result = subprocess.run(
            [sys.executable, "-m", "proxy", command, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 2
        last = result.stderr.splitlines()[-1]
        assert last.startswith(f"metastore-proxy: {told.format(key=own.key)}")
        assert "Traceback" not in result.stderr
        for key in keys:
            assert key.splitlines()[1] not in result.stdout + result.stderr
