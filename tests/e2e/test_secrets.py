"""The database password in nothing that a process writes, at debug level, when all goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message

from proxy.demo.postgres import PostgresPair
from proxy.demo.processes import NodeProcess
from proxy.identifiers import index_uid_message
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from tests.support.collector import Collector
from tests.support.index_documents import kafka_config, web_logs_config
from tests.support.postgres import Scratch
from tests.support.routers import Caller
from tests.support.splitting import dumped, query
from tests.support.waiting import until

# Needs escaping in URIs, in JSON and in SQL.
PASSWORD = "s3cr3t p@ss/w\"rd:%41'"


@pytest.fixture
async def user(pg: PostgresPair, migrated_database: Scratch) -> str:
    name = f"secretive_{os.getpid()}"
    literal = PASSWORD.replace("'", "''")
    await migrated_database.execute(
        f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{literal}'"
    )
    await pg.wait_caught_up()
    return name


def forms() -> list[str]:
    """Every form in which the password could show."""
    escaped = PASSWORD.replace('"', '\\"')
    return [PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), escaped, repr(PASSWORD)[1:-1]]


def assert_clean(text: str) -> None:
    for form in forms():
        assert form not in text


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_no_output_of_a_node_holds_the_password(
    migrated_database: Scratch, user: str, tmp_path: Path, log_format: str
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        f'version: "0.8"\nproxy: {{log_level: debug, log_format: {log_format}}}\n', encoding="utf-8"
    )
    pair, name = migrated_database.pair, migrated_database.name
    good = pair.primary_uri(name, user=user, password=PASSWORD)
    uris = {
        "good": good,
        "wrong-user": pair.primary_uri(name, user="nobody_here", password=PASSWORD),
        "wrong-database": pair.primary_uri("no_such_db", user=user, password=PASSWORD),
        "no-server": good.replace(f":{pair.primary.port}/", ":1/"),
        "no-host": good.replace("127.0.0.1", "no-such-host.invalid"),
        "as-parameter": f"postgresql://{user}@127.0.0.1:{pair.primary.port}/{name}"
        f"?password={quote(PASSWORD, safe='')}&sslmode=disable",
    }
    nodes = {
        case: NodeProcess(case, Role.METASTORE, tmp_path, {"QW_METASTORE_URI": uri}, config=config)
        for case, uri in uris.items()
    }
    try:
        for node in nodes.values():
            node.start()
        for case, node in nodes.items():
            if case in ("good", "as-parameter"):
                await node.wait_ready()
            else:
                await until(lambda node=node: "not ready" in node.log_tail(), node.log_tail)
            async with aiohttp.ClientSession() as http:
                for path in (
                    *("/health/readyz?verbose", "/metrics"),
                    *("/", "/status.json", "/status.txt"),
                ):
                    async with http.get(node.rest_url + path) as response:
                        assert_clean(await response.text())
    finally:
        for node in nodes.values():
            await node.terminate()
    for node in nodes.values():
        text = node.log_path.read_text(encoding="utf-8")
        assert "node is listening" in text
        assert_clean(text)


def telling_requests(secret: str) -> list[tuple[str, Message]]:
    """Return calls that carry a secret wherever a user's may be; all but the first two fail."""
    uid = index_uid_message("logs:01K33Z58DJRFAEBXG71GMKMJTW")
    source = kafka_config()
    source["params"]["client_params"] = {"sasl.password": secret}
    config = json.dumps(web_logs_config())
    broken = json.dumps({"version": "0.9", "index_id": {"password": secret}})
    return [
        (
            "CreateIndex",
            pb.CreateIndexRequest(index_config_json=config, source_configs_json=[dumped(source)]),
        ),
        ("ListSplits", query(tags={"Tag": {"is_present": True, "tag": secret}})),
        ("CreateIndex", pb.CreateIndexRequest(index_config_json=broken)),
        ("AddSource", pb.AddSourceRequest(index_uid=uid, source_config_json=dumped(source))),
        ("PublishSplits", pb.PublishSplitsRequest(index_uid=uid, publish_token_opt=secret)),
        ("CreateDeleteTask", pb.DeleteQuery(index_uid=uid, query_ast=secret)),
        ("CreateIndexTemplate", pb.CreateIndexTemplateRequest(index_template_json=secret)),
    ]


async def make(caller: Caller, rpc: str, request: Message) -> None:
    raw = request.SerializeToString()
    with suppress(grpc.aio.AioRpcError):
        if RPCS[rpc].is_streaming:
            assert [message async for message in caller.stream(rpc, raw)] == []
        else:
            await caller.unary(rpc, raw)


@pytest.mark.parametrize("threshold", ["1ns", "1h"])
async def test_no_log_line_and_no_span_of_a_call_holds_a_secret_of_its_request(
    migrated_database: Scratch, tmp_path: Path, threshold: str
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        f'version: "0.8"\nproxy: {{log_level: debug, slow_query_threshold: {threshold}}}\n',
        encoding="utf-8",
    )
    async with Collector("grpc") as collector:
        environment = {
            "QW_METASTORE_URI": migrated_database.primary_uri,
            "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote(PASSWORD, safe='')}",
        }
        node = NodeProcess("node", Role.METASTORE, tmp_path, environment, config=config)
        requests = telling_requests(PASSWORD)
        try:
            node.start()
            await node.wait_ready()
            async with Caller(node.address) as caller:
                for rpc, request in requests:
                    await make(caller, rpc, request)
        finally:
            await node.terminate()
    text = node.log_path.read_text(encoding="utf-8")
    assert_clean(text)
    assert_clean(str(collector.requests))
    event = "slow call" if threshold == "1ns" else "call"
    for rpc, _ in requests:
        assert f": {event} rpc={rpc} " in text
    served = {span.name.rpartition("/")[2] for span in collector.spans}
    assert served >= {rpc for rpc, _ in requests}
    assert collector.headers[0]["authorization"] == PASSWORD


@pytest.mark.parametrize("command", [["check-config"], ["migrate"], ["migrate", "--check"]])
async def test_no_command_prints_the_password(
    migrated_database: Scratch, user: str, command: list[str]
) -> None:
    good = migrated_database.pair.primary_uri(migrated_database.name, user=user, password=PASSWORD)
    for uri in (good, good.replace("/test_", "/no_such_"), good + "?sslmode=nonsense", good + "#"):
        environ = {**os.environ, "QW_METASTORE_URI": uri, "PYTHONASYNCIODEBUG": "1"}
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "proxy", *command],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in result.stderr
        assert_clean(result.stdout + result.stderr)
