"""Spans of a node's process on their way to a collector, and nothing of it when it is off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.demo.postgres_host import free_port
from proxy.demo.processes import NodeProcess
from proxy.roles import Role
from tests.support.collector import Collector
from tests.support.fake_node import FakeNode
from tests.support.routers import Caller

EXPORTER = "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TOKEN = "top-secret-token"


def router(directory: Path, backend: FakeNode, name: str, **environment: str) -> NodeProcess:
    config = directory / f"{name}.json"
    proxy = {"primary": [backend.address], "log_level": "debug", "shutdown_delay": "0s"}
    config.write_text(json.dumps({"version": "0.8", "proxy": proxy}), encoding="utf-8")
    variables = {EXPORTER: "true", **environment}
    return NodeProcess(name, Role.ROUTER, directory, variables, config=config)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_spans_arrive_at_a_collector_at_the_latest_when_the_node_ends(
    tmp_path: Path, protocol: str
) -> None:
    async with Collector(protocol) as collector, FakeNode("primary-1", role="metastore") as backend:
        node = router(
            tmp_path,
            backend,
            "router-1",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        )
        node.start()
        try:
            await node.wait_ready()
            async with Caller(node.address) as caller:
                await caller.unary("IndexMetadata", traceparent=PARENT)
        finally:
            status = await node.terminate()
    assert status == 0
    served = next(span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER)
    sent = next(span for span in collector.spans if span.kind == span.SPAN_KIND_CLIENT)
    assert served.trace_id.hex() == sent.trace_id.hex() == TRACE
    assert served.parent_span_id.hex() == "b7ad6b7169203331"
    assert sent.parent_span_id == served.span_id
    facts = {
        "service.name": "metastore-proxy",
        "service.instance.id": "router-1",
        "metastore.role": "metastore_router",
        "deployment.environment": "test",
    }
    assert facts.items() <= collector.resource.items()
    assert collector.headers[0]["authorization"] == f"Bearer {TOKEN}"
    log = node.log_path.read_text(encoding="utf-8")
    assert f"trace_id={TRACE}" in log
    assert TOKEN not in log


async def test_a_collector_that_hangs_or_is_not_there_holds_up_neither_calls_nor_the_end(
    tmp_path: Path,
) -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(writer)

    hanging: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    headers = f"api-key={TOKEN}"
    async with FakeNode("primary-1", role="metastore") as backend:
        nodes = [
            router(
                tmp_path,
                backend,
                name,
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://u:{TOKEN}@127.0.0.1:{where}",
                OTEL_EXPORTER_OTLP_HEADERS=headers,
                # Exported at once, so that the call meets an exporter that is stuck.
                OTEL_BSP_SCHEDULE_DELAY="1",
            )
            for name, where in (("hangs", port), ("not-there", free_port()))
        ]
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                await node.wait_ready()
                async with Caller(node.address) as caller:
                    for _ in range(50):
                        await caller.unary("IndexMetadata", timeout=5.0)
        finally:
            began = time.monotonic()
            statuses = await asyncio.gather(*(node.terminate(30.0) for node in nodes))
            seconds = time.monotonic() - began
            listener.close()
            for writer in hanging:
                writer.transport.abort()
    assert statuses == [0, 0]
    # Of these, 3 are the bound of the flush.
    assert seconds < 15
    for node in nodes:
        assert TOKEN not in node.log_path.read_text(encoding="utf-8")


def run(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environ,
    )


def test_a_node_that_exports_nothing_loads_no_tracing_library() -> None:
    ended = run(
        "import sys, proxy.__main__\n"
        "found = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "sys.exit(f'loaded: {found}' if found else 0)\n"
    )
    assert ended.returncode == 0, ended.stderr


def test_an_export_without_the_library_says_how_to_get_it() -> None:
    ended = run(
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from proxy.__main__ import main\n"
        "sys.exit(main(['run', '--service', 'metastore']))\n",
        QW_METASTORE_URI="postgresql://u@127.0.0.1:1/d",
        **{EXPORTER: "true"},
    )
    assert ended.returncode == 2
    assert "pip install 'metastore-proxy[otlp]'" in ended.stderr
    assert "Traceback" not in ended.stderr
