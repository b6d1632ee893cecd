"""No secret in anything that a node of any role says, at debug level, in good days and bad ones.

Every secret is a marker of its own: the database's password, what the key files hold, the token for
the trace collector, and what callers send along. All there is to read is searched for all of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message

from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from tests.e2e.test_secrets import PASSWORD, forms, telling_requests
from tests.support.certificates import Authority
from tests.support.collector import Collector
from tests.support.postgres import Scratch
from tests.support.waiting import until

EXPORTED = "marker-0f-the-collector"
CALLED = "marker-0f-a-caller"
ASKED = "marker-0f-a-browser"
ROLES = {"primary": Role.METASTORE, "replica": Role.READ_REPLICA, "router": Role.ROUTER}


@dataclass
class Heard:
    """Everything that was said, by where it was read."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: object) -> None:
        self.texts[where] = self.texts.get(where, "") + f"{text}\n"


@dataclass
class Rig:
    """The nodes, a collector of their traces, and what has been heard."""

    directory: Path
    authority: Authority
    collector: Collector
    nodes: dict[str, NodeProcess]
    heard: Heard
    configs: dict[str, Path]
    environ: dict[str, str]

    def secrets(self) -> dict[str, str]:
        """Return the markers, and every line of every key, by what they are."""
        found = {"collector": EXPORTED, "caller": CALLED, "browser": ASKED}
        found |= {f"password {form}": form for form in forms()}
        for key in self.directory.glob("*.key"):
            lines = key.read_text(encoding="ascii").splitlines()[1:-1]
            found |= {f"{key.name}:{number}": line for number, line in enumerate(lines)}
        return found

    def assert_clean(self) -> None:
        for where, text in self.heard.texts.items():
            for what, secret in self.secrets().items():
                assert secret not in text, f"{what} in {where}"


@pytest.fixture
async def rig(migrated_database: Scratch, tmp_path: Path) -> AsyncIterator[Rig]:
    user = f"secretive_roles_{os.getpid()}"
    literal = PASSWORD.replace("'", "''")
    await migrated_database.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{literal}'")
    await migrated_database.pair.wait_caught_up()
    uris = [
        getattr(migrated_database.pair, kind)(migrated_database.name, user=user, password=PASSWORD)
        for kind in ("primary_uri", "standby_uri")
    ]
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector("grpc"))
        environ = {
            # As behind a pooler, which costs nothing without one.
            "QW_METASTORE_URI": f"{uris[0]}?pgbouncer=true",
            "QW_METASTORE_READ_REPLICA_URI": uris[1],
            "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={EXPORTED}",
        }
        made = Rig(tmp_path, Authority(tmp_path), collector, {}, Heard(), {}, environ)
        for name, role in ROLES.items():
            config = _config(made, name, role)
            made.configs[name] = config
            node = NodeProcess(name, role, tmp_path, environ, config=config)
            made.nodes[name] = node
            node.start()
            stack.push_async_callback(node.terminate)
        yield made
    await migrated_database.execute(f"DROP ROLE {user}")


def _config(rig: Rig, name: str, role: Role) -> Path:
    own = rig.authority.issue(name)
    tls = {
        "cert_path": str(own.cert),
        "key_path": str(own.key),
        "ca_path": str(rig.authority.ca),
        "verify_client_cert": True,
    }
    proxy: dict[str, Any] = {
        "log_level": "debug",
        "log_format": "console" if role is Role.READ_REPLICA else "json",
        "drain_timeout": "1s",
        "slow_query_threshold": "1ns",
        "shutdown_delay": "0s",
    }
    if role is not Role.METASTORE:
        proxy["primary"] = [rig.nodes["primary"].address]
    if role is Role.READ_REPLICA:
        proxy["forward"] = True
    if role is Role.ROUTER:
        proxy["replicas"] = [rig.nodes["replica"].address]
    document = {"version": "0.8", "grpc": {"tls": tls}, "proxy": proxy}
    path = rig.directory / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


async def call(rig: Rig, name: str, rpc: str, request: Message) -> str:
    """Make a call with a token; keep what an error says, and return its status."""
    own = rig.directory / name
    credentials = grpc.ssl_channel_credentials(
        rig.authority.ca.read_bytes(),
        own.with_suffix(".key").read_bytes(),
        own.with_suffix(".crt").read_bytes(),
    )
    metadata = (("authorization", f"Bearer {CALLED}"), ("x-api-key", CALLED))
    async with grpc.aio.secure_channel(rig.nodes[name].address, credentials) as channel:
        raw = request.SerializeToString()
        try:
            if RPCS[rpc].is_streaming:
                stream = channel.unary_stream(RPCS[rpc].path)(raw, timeout=3, metadata=metadata)
                assert [message async for message in stream] == []
            else:
                await channel.unary_unary(RPCS[rpc].path)(raw, timeout=3, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            trailing = list(error.trailing_metadata() or ())
            rig.heard.add(f"error of {rpc} at {name}", f"{error.details()} {trailing}")
            return error.code().name
    return "OK"


async def browse(rig: Rig, name: str) -> None:
    """Read all pages; send what is no request, too."""
    node = rig.nodes[name]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ASKED}"}) as http:
        for path in ("/", "/metrics", "/health/livez", "/health/readyz?verbose", "/nothing"):
            mark = "&" if "?" in path else "?"
            url = f"{node.rest_url}{path}{mark}token={ASKED}"
            async with http.get(url, allow_redirects=False) as response:
                rig.heard.add(f"{path} at {name}", await response.text())
    reader, writer = await asyncio.open_connection(node.host, node.rest_port)
    writer.write(f"GET / HTTP/1.1\r\nAuthorization Bearer {ASKED}\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def run_command(rig: Rig, name: str, *command: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", *command, "--config", str(rig.configs[name])],
        env={**os.environ, **rig.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    rig.heard.add(f"{command[0]} of {name}", done.stdout + done.stderr)


async def run_commands(rig: Rig) -> None:
    router = rig.nodes["router"].address
    await run_command(rig, "primary", "check-config", "--service", "metastore")
    await run_command(rig, "router", "status", "--node", router)
    await run_command(rig, "router", "explain", "ListSplits", "--router", router)
    await run_command(
        rig, "router", "call", "IndexMetadata", '{"index_id": "nope"}', "--primary", router
    )


async def test_no_role_tells_a_secret(rig: Rig) -> None:
    for name, node in rig.nodes.items():
        await until(
            lambda node=node: "node is ready" in node.log_path.read_text(),
            node.log_tail,
            timeout=40,
        )
        assert name in node.log_path.name
    statuses: dict[str, set[str]] = {}
    for name in ROLES:
        for rpc, request in telling_requests(PASSWORD):
            statuses.setdefault(name, set()).add(await call(rig, name, rpc, request))
        await browse(rig, name)
    assert {"OK", "NOT_FOUND"} <= statuses["router"]
    await run_commands(rig)
    await rig.nodes["primary"].terminate()
    # Nobody is left who takes a write.
    for name in ("replica", "router"):
        assert await call(rig, name, "DeleteIndex", pb.DeleteIndexRequest()) != "OK"
        await browse(rig, name)
    await asyncio.gather(*(node.terminate() for node in rig.nodes.values()))
    for name, node in rig.nodes.items():
        text = node.log_path.read_text(encoding="utf-8")
        assert "slow call" in text
        assert "HTTP request refused" in text
        rig.heard.add(f"log of {name}", text)
    assert {one["authorization"] for one in rig.collector.headers} == {EXPORTED}
    rig.heard.add("spans", rig.collector.requests)
    rig.assert_clean()
