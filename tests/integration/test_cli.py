"""The command line as a user meets it: help, errors in one line, exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.roles import Role
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch


async def cli(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QW_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", *arguments],
        env=environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command", [[], ["run"], ["migrate"], ["check-config"], ["call"], ["demo"]]
)
async def test_help_teaches(command: list[str]) -> None:
    result = await cli(*command, "--help")
    assert result.returncode == 0
    assert "usage: metastore-proxy" in result.stdout
    if not command:
        for name in ("run", "migrate", "check-config", "call", "demo", "examples:"):
            assert name in result.stdout


async def test_the_version() -> None:
    result = await cli("--version")
    assert result.stdout.startswith("metastore-proxy 0.")


async def test_check_config_prints_the_config_without_the_password() -> None:
    uri = "postgresql://quickwit:hunter2-secret@db.internal:5432/metastore"
    result = await cli("check-config", "--service", "metastore", QW_METASTORE_URI=uri)
    assert result.returncode == 0
    assert "postgresql://quickwit:***redacted***@db.internal:5432/metastore" in result.stdout
    assert "hunter2-secret" not in result.stdout + result.stderr


async def test_the_config_file_is_named_by_qw_config(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text('version: "0.8"\nnode_id: from-file\nproxy: {replicsa: [a:1]}\n')
    result = await cli("check-config", QW_CONFIG=str(file))
    assert result.returncode == 2
    assert "replicsa" in result.stderr
    assert "`replicas`" in result.stderr or "`proxy.replicas`" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["run", "--service", "metastore_read_replica"], {}, "metastore_read_replica_uri"),
        (["run", "--service", "searcher"], {}, "metastore"),
        (["run", "--config", "missing.yaml"], {}, "missing.yaml"),
        (
            ["run", "--service", "metastore"],
            {"QW_METASTORE_URI": "s3://bucket/indexes"},
            "metastore_uri",
        ),
        (["migrate"], {}, "metastore_uri"),
        (["call", "Nope"], {}, "'Nope' is not an RPC"),
        (["call", "IndexMetadata"], {}, "--primary"),
        (["call", "IndexMetadata", "{", "--primary", "127.0.0.1:1"], {}, "IndexMetadataRequest"),
        (["call", "IndexMetadata", '{"nope": 1}', "--primary", "127.0.0.1:1"], {}, "nope"),
        (["call", "IndexMetadata", "--primary", "not-an-address"], {}, "not-an-address"),
    ],
)
async def test_a_wrong_use_is_one_line_that_says_what_is_wrong(
    arguments: list[str], variables: dict[str, str], expected: str
) -> None:
    result = await cli(*arguments, **variables)
    assert result.returncode in (1, 2)
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


async def test_the_log_format_of_the_command_line_beats_all_others(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text('version: "0.8"\nno_such_key: 1\nproxy: {log_format: console}\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It logs its warnings and ends, because the port is in use.
        result = await cli(
            *("run", "--service", "metastore", "--config", str(file), "--log-format", "json"),
            QW_METASTORE_URI="postgresql://u@127.0.0.1:1/d",
            QW_REST_LISTEN_PORT=str(taken.getsockname()[1]),
            QW_LOG_FORMAT="full",
        )
    assert result.returncode == 1
    line = json.loads(result.stderr.splitlines()[0])
    assert (line["level"], line["target"]) == ("WARN", "proxy.lifecycle")
    assert "no_such_key" in line["message"]


async def test_output_that_nobody_reads_is_no_defect() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "proxy", "check-config", "--service", "metastore"],
            env=os.environ | {"QW_METASTORE_URI": "postgresql://u@h/db"},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


async def test_a_call_waits_for_a_node_no_longer_than_its_timeout() -> None:
    result = await cli("call", "ListIndexTemplates", "--primary", "127.0.0.1:1", "--timeout", "0.2")
    assert result.returncode == 1
    assert "not ready after 0.2 s" in result.stderr


async def test_a_node_that_is_not_there_is_said(tmp_path: Path) -> None:
    result = await cli("call", "ListIndexTemplates", "--primary", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


async def test_migrate_creates_the_schema_and_then_has_nothing_to_do(
    fresh_database: Scratch,
) -> None:
    variables = {"QW_METASTORE_URI": fresh_database.primary_uri}
    before = await cli("migrate", "--check", **variables)
    assert before.returncode == 1
    first = await cli("migrate", **variables)
    assert first.returncode == 0, first.stderr
    assert "required migrations: 28 applied" in first.stdout
    assert "deferred migrations: applied" in first.stdout
    again = await cli("migrate", **variables)
    assert "required migrations: 0 applied" in again.stdout
    assert "deferred migrations: up_to_date" in again.stdout
    check = await cli("migrate", "--check", **variables)
    assert check.returncode == 0
    assert "  28  applied" in check.stdout


async def test_migrate_says_that_the_database_cannot_be_reached() -> None:
    uri = "postgresql://quickwit:hunter2-secret@127.0.0.1:1/metastore"
    result = await cli("migrate", QW_METASTORE_URI=uri)
    assert result.returncode == 1
    assert "connection error" in result.stderr
    assert "hunter2-secret" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


async def test_call_shows_the_answer_and_who_served_it(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    primary = node_config(Role.METASTORE, migrated_database.primary_uri, node_id="primary-1")
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri, node_id="replica-1")
    async with running(primary) as one, running(replica) as two:
        targets = ["--primary", address(one), "--replica", address(two)]
        create = json.dumps({"index_config_json": dataset.index_config()})
        refused = await cli("call", "CreateIndex", create, *targets)
        assert refused.returncode == 2
        assert "--allow-writes" in refused.stderr
        created = await cli("call", "CreateIndex", create, *targets, "--allow-writes")
        assert created.returncode == 0, created.stderr
        assert "served by primary-1 (metastore), route primary" in created.stderr
        await pg.wait_caught_up()
        read = await cli("call", "IndexMetadata", '{"index_id": "hdfs-logs"}', *targets)
        assert "served by replica-1 (metastore_read_replica), route replica" in read.stderr
        answer = json.loads(read.stdout)
        assert json.loads(answer["index_metadata_serialized_json"])["version"] == "0.9"
        missing = await cli("call", "IndexMetadata", '{"index_id": "missing"}', *targets)
        assert missing.returncode == 1
        assert missing.stderr == "metastore-proxy: index `missing` not found\n"
        query = dataset.published_query("hdfs-logs:" + "0" * 26)
        streamed = await cli("call", "ListSplits", json.dumps({"query_json": query}), *targets)
        assert (streamed.returncode, streamed.stdout) == (0, "")
        assert "served by replica-1" in streamed.stderr
