"""Indexes and identifiers for the contract cases."""

from __future__ import annotations

import json
from typing import Any

from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore

ULID = bytes.fromhex("0198c7f2a1b2c3d4e5f60718293a4b5c")
ULID_TEXT = "01K33Z58DJRFAEBXG730MKMJTW"
DOC_MAPPING_UID = common_pb2.DocMappingUid(doc_mapping_uid=ULID)


def index_config(index_id: str) -> dict[str, Any]:
    """Return a small index config."""
    return {
        "version": "0.9",
        "index_id": index_id,
        "index_uri": f"s3://acme/{index_id}",
        "doc_mapping": {
            "doc_mapping_uid": ULID_TEXT,
            "field_mappings": [{"name": "ts", "type": "datetime", "fast": True}],
            "timestamp_field": "ts",
        },
    }


def source_config(source_id: str, source_type: str = "void") -> dict[str, Any]:
    """Return a source: `void` keeps its checkpoint in the index, `ingest` in shards."""
    config: dict[str, Any] = {
        "version": "0.9",
        "source_id": source_id,
        "source_type": source_type,
    }
    if source_type == "void":
        config["params"] = None
    return config


async def make_index(
    metastore: Metastore, index_id: str = "web-logs", *sources: dict[str, Any]
) -> common_pb2.IndexUid:
    """Create an index with sources."""
    request = pb.CreateIndexRequest(
        index_config_json=json.dumps(index_config(index_id)),
        source_configs_json=[json.dumps(source) for source in sources],
    )
    response = await metastore.call("CreateIndex", request)
    uid: common_pb2.IndexUid = response.index_uid
    return uid


async def uid_text(metastore: Metastore, index_id: str = "web-logs") -> str:
    """Return the text of an index's UID, as the database has it."""
    text = await metastore.sql.fetchval(
        "SELECT index_uid FROM indexes WHERE index_id = $1", index_id
    )
    assert isinstance(text, str)
    return text


def unknown_index(index_id: str = "web-logs") -> common_pb2.IndexUid:
    """Return a UID that no index has."""
    return common_pb2.IndexUid(index_id=index_id, incarnation_id=ULID)


def shard_ids(*texts: str) -> list[ingest_pb2.ShardId]:
    """Return shard IDs."""
    return [ingest_pb2.ShardId(shard_id=text.encode()) for text in texts]
