"""Calls and rows of indexes for the contract cases."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_documents import compact, metadata_text, web_logs_config
from tests.support.making import make_index

NIL = "00000000000000000000000000"
NEW_UID = "01K33Z58DJRFAEBXG71GMKMJTW"
OLD_LOGS_UID = "old-logs:01HQ2W3E4R5T6Y7Q8A9S0D1F2G"
INDEX_CONFIG = "quickwit_config::index_config::IndexConfig"
SOURCE_CONFIG = "quickwit_config::source_config::SourceConfig"
EMPTY_CAUSE = "The list of index id patterns may not be empty."


async def create(
    metastore: Metastore, config: dict[str, Any] | None = None, *sources: dict[str, Any]
) -> pb.CreateIndexResponse:
    request = pb.CreateIndexRequest(
        index_config_json=compact(config or web_logs_config()),
        source_configs_json=[compact(source) for source in sources],
    )
    response = await metastore.call("CreateIndex", request)
    assert isinstance(response, pb.CreateIndexResponse)
    return response


async def make(metastore: Metastore, *index_ids: str) -> dict[str, common_pb2.IndexUid]:
    return {index_id: await make_index(metastore, index_id) for index_id in index_ids}


async def store_document(metastore: Metastore, uid: str, text: str, seconds: int = 42) -> None:
    """Put a row into `indexes` as another version may have left it."""
    await metastore.sql.execute(
        "INSERT INTO indexes (index_uid, index_id, index_metadata_json, create_timestamp)"
        " VALUES ($1, $2, $3, to_timestamp($4::bigint) + interval '0.9 s')",
        uid,
        uid.partition(":")[0],
        text,
        seconds,
    )


async def store_old(metastore: Metastore, version: str) -> common_pb2.IndexUid:
    await store_document(metastore, OLD_LOGS_UID, metadata_text(version))
    return identifiers.index_uid_message(OLD_LOGS_UID)


async def rows(metastore: Metastore) -> list[tuple[Any, ...]]:
    return [
        tuple(row) for row in await metastore.sql.fetch("SELECT * FROM indexes ORDER BY index_uid")
    ]


async def read(metastore: Metastore, **name: Any) -> dict[str, Any]:
    response = await metastore.call("IndexMetadata", pb.IndexMetadataRequest(**name))
    document: dict[str, Any] = json.loads(response.index_metadata_serialized_json)
    return document


def unpack(blob: bytes) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = json.loads(
        zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    )
    return sorted(documents, key=lambda document: document["index_uid"])


async def read_many(
    metastore: Metastore, *subrequests: pb.IndexMetadataSubrequest
) -> pb.IndexesMetadataResponse:
    response = await metastore.call(
        "IndexesMetadata", pb.IndexesMetadataRequest(subrequests=subrequests)
    )
    assert isinstance(response, pb.IndexesMetadataResponse)
    return response


async def list_ids(metastore: Metastore, *patterns: str) -> list[str]:
    response = await metastore.call(
        "ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=patterns)
    )
    assert not response.HasField("indexes_metadata_json_opt")
    return sorted(
        document["index_config"]["index_id"]
        for document in unpack(response.indexes_metadata_json_zstd)
    )


async def stats(metastore: Metastore, *patterns: str) -> dict[str, pb.IndexStats]:
    response = await metastore.call(
        "ListIndexStats", pb.ListIndexStatsRequest(index_id_patterns=patterns)
    )
    return {entry.index_uid.index_id: entry for entry in response.index_stats}


async def add_split(metastore: Metastore, uid: str, split_id: str, state: str, size: int) -> None:
    await metastore.sql.execute(
        "INSERT INTO splits (split_id, split_state, tags, split_metadata_json, index_uid, node_id)"
        " VALUES ($1, $2, '{}', $3, $4, 'n')",
        split_id,
        state,
        compact({"footer_offsets": {"start": 1, "end": size}}),
        uid,
    )


async def refused(metastore: Metastore, rpc: str, request: Any) -> errors.MetastoreError:
    """Return the error of a call, having seen that it left the table as it was."""
    before = await rows(metastore)
    with pytest.raises(errors.MetastoreError) as caught:
        await metastore.call(rpc, request)
    assert await rows(metastore) == before
    return caught.value


def not_found(index_id: str) -> dict[str, Any]:
    return {"NotFound": {"index": {"index_id": index_id}}}
