"""What tests of sources share: requests, and what the rows hold before and after."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_documents import compact, kafka_config, metadata_text
from tests.support.making import source_config, uid_text

NIL = "00000000000000000000000000"
OLD_LOGS_UID = "old-logs:01HQ2W3E4R5T6Y7Q8A9S0D1F2G"
SOURCE_CONFIG = "quickwit_config::source_config::SourceConfig"
POSITIONS = {"00000000000000000000": "00000000000000000041", "": "~"}


async def document(metastore: Metastore, index_id: str = "web-logs") -> dict[str, Any]:
    """Return the stored metadata of an index."""
    text = await metastore.sql.fetchval(
        "SELECT index_metadata_json FROM indexes WHERE index_id = $1", index_id
    )
    parsed: dict[str, Any] = json.loads(text)
    return parsed


async def set_checkpoint(metastore: Metastore, checkpoint: dict[str, Any]) -> None:
    changed = await document(metastore) | {"checkpoint": checkpoint}
    await metastore.sql.execute("UPDATE indexes SET index_metadata_json = $1", compact(changed))


async def store_old(metastore: Metastore, version: str) -> common_pb2.IndexUid:
    await metastore.sql.execute(
        "INSERT INTO indexes (index_uid, index_id, index_metadata_json, create_timestamp)"
        " VALUES ($1, 'old-logs', $2, to_timestamp(42))",
        OLD_LOGS_UID,
        metadata_text(version),
    )
    return identifiers.index_uid_message(OLD_LOGS_UID)


async def add_shard(metastore: Metastore, source_id: str, shard_id: str) -> None:
    await metastore.sql.execute(
        "INSERT INTO shards (index_uid, source_id, shard_id, leader_id, doc_mapping_uid)"
        " VALUES ($1, $2, $3, 'n', $4)",
        await uid_text(metastore),
        source_id,
        shard_id,
        NIL,
    )


async def shards(metastore: Metastore) -> list[tuple[str, str]]:
    rows = await metastore.sql.fetch("SELECT source_id, shard_id FROM shards ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def row_version(metastore: Metastore) -> tuple[Any, ...]:
    """Return what PostgreSQL changes whenever it writes the row again."""
    (row,) = await metastore.sql.fetch("SELECT ctid, xmin FROM indexes")
    return tuple(row)


async def tables(metastore: Metastore) -> list[Any]:
    indexes = await metastore.sql.fetch("SELECT * FROM indexes ORDER BY index_uid")
    return [[tuple(row) for row in indexes], await shards(metastore)]


async def refused(metastore: Metastore, rpc: str, request: Any) -> errors.MetastoreError:
    """Return the error of a call, having seen that it left the tables as they were."""
    before = await tables(metastore)
    with pytest.raises(errors.MetastoreError) as caught:
        await metastore.call(rpc, request)
    assert await tables(metastore) == before
    return caught.value


def add(uid: common_pb2.IndexUid, config: dict[str, Any]) -> pb.AddSourceRequest:
    return pb.AddSourceRequest(index_uid=uid, source_config_json=compact(config))


def update(uid: common_pb2.IndexUid, config: dict[str, Any]) -> pb.UpdateSourceRequest:
    return pb.UpdateSourceRequest(index_uid=uid, source_config_json=compact(config))


def toggle(uid: common_pb2.IndexUid, source_id: str, *, enable: bool) -> pb.ToggleSourceRequest:
    return pb.ToggleSourceRequest(index_uid=uid, source_id=source_id, enable=enable)


def delete(uid: common_pb2.IndexUid, source_id: str) -> pb.DeleteSourceRequest:
    return pb.DeleteSourceRequest(index_uid=uid, source_id=source_id)


def reset(uid: common_pb2.IndexUid, source_id: str) -> pb.ResetSourceCheckpointRequest:
    return pb.ResetSourceCheckpointRequest(index_uid=uid, source_id=source_id)


def source_not_found(source_id: str) -> dict[str, Any]:
    return {"NotFound": {"source": {"index_id": "web-logs", "source_id": source_id}}}


MALFORMED = [
    "",
    "{",
    "[]",
    "null",
    "{}",
    compact(kafka_config(version="1.0")),
    compact(kafka_config("ab")),
    compact(kafka_config("9kafka")),
    compact(kafka_config("a" * 256)),
    compact(kafka_config("kafka-a\n")),
    compact(kafka_config(num_pipelines=0)),
    compact(kafka_config(num_pipelines=-1)),
    compact(kafka_config(enabled="true")),
    compact(kafka_config(source_type="stdin")),
    compact(kafka_config(source_type="nats")),
    compact(kafka_config(source_type=None)),
    compact(kafka_config(params=None)),
    compact(kafka_config(input_format="csv")),
    compact(kafka_config(unknown=1)),
    compact(source_config("src") | {"num_pipelines": 2}),
    compact(source_config("src") | {"source_type": "file", "params": {"notifications": []}}),
]
