"""The access class of every RPC in the catalogue is what PostgreSQL says.

Each RPC is executed with a valid request on a session that is read-only, past the dispatcher's
own refusal: a read succeeds, a write is refused by the database. That the request is valid shows
in that it then succeeds on a read-write session. The RPCs come from the service's descriptor, so
that a new one cannot be forgotten.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from google.protobuf.message import Message

from proxy import errors
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS, Access
from proxy.store.metastore import STREAMING, UNARY
from proxy.store.pool import Database
from tests.support.making import (
    DOC_MAPPING_UID,
    ULID_TEXT,
    index_config,
    shard_ids,
    source_config,
)
from tests.support.parquet_samples import list_query, metadata
from tests.support.postgres import Scratch, opened

SERVICE = pb.DESCRIPTOR.services_by_name["MetastoreService"]
METHODS = [method.name for method in SERVICE.methods]
OPEN_RANGE = {"start": "Unbounded", "end": "Unbounded"}
MAX_MESSAGE_SIZE = 20 * 1024 * 1024


def template(template_id: str) -> str:
    return json.dumps(
        {
            "version": "0.9",
            "template_id": template_id,
            "index_id_patterns": ["logs-*"],
            "doc_mapping": {},
        }
    )


def split(split_id: str, index_uid: str) -> dict[str, Any]:
    return {
        "version": "0.9",
        "split_id": split_id,
        "index_uid": index_uid,
        "partition_id": 0,
        "source_id": "vector",
        "node_id": "indexer-1",
        "num_docs": 1,
        "uncompressed_docs_size_in_bytes": 1,
        "time_range": None,
        "create_timestamp": 1_787_000_000,
        "maturity": {"type": "mature"},
        "tags": [],
        "footer_offsets": {"start": 1, "end": 2},
        "delete_opstamp": 0,
        "num_merge_ops": 0,
        "doc_mapping_uid": ULID_TEXT,
    }


def split_query(index_uid: str) -> dict[str, Any]:
    return {
        "index_uids": [index_uid],
        "split_states": [],
        "time_range": OPEN_RANGE,
        "delete_opstamp": OPEN_RANGE,
        "update_timestamp": OPEN_RANGE,
        "create_timestamp": OPEN_RANGE,
        "mature": "Unbounded",
        "sort_by": "None",
    }


class World:
    """What is in the database: an index with one thing of every kind, and an empty index."""

    def __init__(
        self, uid: common_pb2.IndexUid, metadata_json: str, empty_uid: common_pb2.IndexUid
    ) -> None:
        self.uid = uid
        self.empty_uid = empty_uid
        self.metadata = json.loads(metadata_json)
        self.text: str = self.metadata["index_uid"]

    def config(self, key: str) -> str:
        """Return a part of the index config."""
        return json.dumps(self.metadata["index_config"][key])

    def shard(self, shard_id: str) -> pb.OpenShardSubrequest:
        """Return a request to open a shard."""
        return pb.OpenShardSubrequest(
            index_uid=self.uid,
            source_id="_ingest-source",
            shard_id=ingest_pb2.ShardId(shard_id=shard_id.encode()),
            ingester_id="ingester-1",
            doc_mapping_uid=DOC_MAPPING_UID,
        )

    def staged(self, request_class: Callable[..., Message], split_id: str) -> Message:
        """Return a request to stage a parquet split."""
        document = json.dumps(metadata(split_id, self.text))
        return request_class(index_uid=self.uid, splits_metadata_json=[document])


async def create_index(
    database: Database, index_id: str, *sources: dict[str, Any]
) -> pb.CreateIndexResponse:
    request = pb.CreateIndexRequest(
        index_config_json=json.dumps(index_config(index_id)),
        source_configs_json=[json.dumps(source) for source in sources],
    )
    response = await UNARY["CreateIndex"](database, request)
    assert isinstance(response, pb.CreateIndexResponse)
    return response


async def make_world(database: Database) -> World:
    sources = source_config("vector"), source_config("_ingest-source", "ingest")
    created = await create_index(database, "web-logs", *sources)
    empty = await create_index(database, "empty")
    world = World(created.index_uid, created.index_metadata_json, empty.index_uid)
    for rpc, request in (
        ("StageSplits", stage_splits(world, "staged")),
        ("OpenShards", pb.OpenShardsRequest(subrequests=[world.shard("s1")])),
        ("CreateDeleteTask", pb.DeleteQuery(index_uid=world.uid, query_ast="{}")),
        (
            "CreateIndexTemplate",
            pb.CreateIndexTemplateRequest(index_template_json=template("stored")),
        ),
        ("StageMetricsSplits", world.staged(pb.StageMetricsSplitsRequest, "staged")),
        ("StageSketchSplits", world.staged(pb.StageSketchSplitsRequest, "staged")),
    ):
        await UNARY[rpc](database, request)
    return world


def stage_splits(world: World, split_id: str) -> pb.StageSplitsRequest:
    return pb.StageSplitsRequest(
        index_uid=world.uid,
        split_metadata_list_serialized_json=json.dumps([split(split_id, world.text)]),
    )


# A valid request for every RPC: each write would change something.
REQUESTS: dict[str, Callable[[World], Message]] = {
    "CreateIndex": lambda _: pb.CreateIndexRequest(
        index_config_json=json.dumps(index_config("metrics"))
    ),
    "UpdateIndex": lambda world: pb.UpdateIndexRequest(
        index_uid=world.uid,
        search_settings_json=json.dumps({"default_search_fields": ["ts"]}),
        indexing_settings_json=world.config("indexing_settings"),
        ingest_settings_json=world.config("ingest_settings"),
        doc_mapping_json=world.config("doc_mapping"),
    ),
    "IndexMetadata": lambda world: pb.IndexMetadataRequest(index_uid=world.uid),
    "IndexesMetadata": lambda world: pb.IndexesMetadataRequest(
        subrequests=[pb.IndexMetadataSubrequest(index_uid=world.uid)]
    ),
    "ListIndexesMetadata": lambda _: pb.ListIndexesMetadataRequest(index_id_patterns=["*"]),
    "DeleteIndex": lambda world: pb.DeleteIndexRequest(index_uid=world.empty_uid),
    "ListIndexStats": lambda _: pb.ListIndexStatsRequest(index_id_patterns=["*"]),
    "ListSplits": lambda world: pb.ListSplitsRequest(
        query_json=json.dumps(split_query(world.text))
    ),
    "StageSplits": lambda world: stage_splits(world, "new"),
    "PublishSplits": lambda world: pb.PublishSplitsRequest(
        index_uid=world.uid, staged_split_ids=["staged"]
    ),
    "MarkSplitsForDeletion": lambda world: pb.MarkSplitsForDeletionRequest(
        index_uid=world.uid, split_ids=["staged"]
    ),
    "DeleteSplits": lambda world: pb.DeleteSplitsRequest(index_uid=world.uid, split_ids=["x"]),
    "ListStaleSplits": lambda world: pb.ListStaleSplitsRequest(
        index_uid=world.uid, delete_opstamp=1, num_splits=10
    ),
    "UpdateSplitsDeleteOpstamp": lambda world: pb.UpdateSplitsDeleteOpstampRequest(
        index_uid=world.uid, split_ids=["staged"], delete_opstamp=1
    ),
    "AddSource": lambda world: pb.AddSourceRequest(
        index_uid=world.uid, source_config_json=json.dumps(source_config("another"))
    ),
    "UpdateSource": lambda world: pb.UpdateSourceRequest(
        index_uid=world.uid,
        source_config_json=json.dumps({**source_config("vector"), "enabled": False}),
    ),
    "ToggleSource": lambda world: pb.ToggleSourceRequest(
        index_uid=world.uid, source_id="vector", enable=False
    ),
    "DeleteSource": lambda world: pb.DeleteSourceRequest(index_uid=world.uid, source_id="vector"),
    "ResetSourceCheckpoint": lambda world: pb.ResetSourceCheckpointRequest(
        index_uid=world.uid, source_id="vector"
    ),
    "LastDeleteOpstamp": lambda world: pb.LastDeleteOpstampRequest(index_uid=world.uid),
    "CreateDeleteTask": lambda world: pb.DeleteQuery(index_uid=world.uid, query_ast="{}"),
    "ListDeleteTasks": lambda world: pb.ListDeleteTasksRequest(index_uid=world.uid),
    "OpenShards": lambda world: pb.OpenShardsRequest(subrequests=[world.shard("s2")]),
    "AcquireShards": lambda world: pb.AcquireShardsRequest(
        index_uid=world.uid,
        source_id="_ingest-source",
        shard_ids=shard_ids("s1"),
        publish_token=ULID_TEXT,
    ),
    "DeleteShards": lambda world: pb.DeleteShardsRequest(
        index_uid=world.uid, source_id="_ingest-source", shard_ids=shard_ids("s1"), force=True
    ),
    "PruneShards": lambda world: pb.PruneShardsRequest(
        index_uid=world.uid, source_id="_ingest-source", max_count=0
    ),
    "ListShards": lambda world: pb.ListShardsRequest(
        subrequests=[pb.ListShardsSubrequest(index_uid=world.uid, source_id="_ingest-source")]
    ),
    "CreateIndexTemplate": lambda _: pb.CreateIndexTemplateRequest(
        index_template_json=template("new")
    ),
    "GetIndexTemplate": lambda _: pb.GetIndexTemplateRequest(template_id="stored"),
    "FindIndexTemplateMatches": lambda _: pb.FindIndexTemplateMatchesRequest(index_ids=["logs-1"]),
    "ListIndexTemplates": lambda _: pb.ListIndexTemplatesRequest(),
    "DeleteIndexTemplates": lambda _: pb.DeleteIndexTemplatesRequest(template_ids=["stored"]),
    "GetClusterIdentity": lambda _: pb.GetClusterIdentityRequest(),
    "StageMetricsSplits": lambda world: world.staged(pb.StageMetricsSplitsRequest, "new"),
    "PublishMetricsSplits": lambda world: pb.PublishMetricsSplitsRequest(
        index_uid=world.uid, staged_split_ids=["staged"]
    ),
    "ListMetricsSplits": lambda world: pb.ListMetricsSplitsRequest(
        index_uid=world.uid, query_json=json.dumps(list_query(world.text))
    ),
    "MarkMetricsSplitsForDeletion": lambda world: pb.MarkMetricsSplitsForDeletionRequest(
        index_uid=world.uid, split_ids=["staged"]
    ),
    "DeleteMetricsSplits": lambda world: pb.DeleteMetricsSplitsRequest(
        index_uid=world.uid, split_ids=["x"]
    ),
    "StageSketchSplits": lambda world: world.staged(pb.StageSketchSplitsRequest, "new"),
    "PublishSketchSplits": lambda world: pb.PublishSketchSplitsRequest(
        index_uid=world.uid, staged_split_ids=["staged"]
    ),
    "ListSketchSplits": lambda world: pb.ListSketchSplitsRequest(
        index_uid=world.uid, query_json=json.dumps(list_query(world.text))
    ),
    "MarkSketchSplitsForDeletion": lambda world: pb.MarkSketchSplitsForDeletionRequest(
        index_uid=world.uid, split_ids=["staged"]
    ),
    "DeleteSketchSplits": lambda world: pb.DeleteSketchSplitsRequest(
        index_uid=world.uid, split_ids=["x"]
    ),
}


@pytest.fixture(scope="module")
async def read_only(shared_scratch: Scratch) -> AsyncIterator[Database]:
    """A read-only pool on the primary."""
    async with opened(shared_scratch.primary_uri, read_only=True) as database:
        yield database


async def run(rpc: str, database: Database, request: Message) -> list[Message]:
    """Call the store's handler; return the answer, or all messages of a stream."""
    if rpc in UNARY:
        return [await UNARY[rpc](database, request)]
    stream = STREAMING[rpc](database, request, max_message_size=MAX_MESSAGE_SIZE)
    return [message async for message in stream]


async def access_by_postgres(rpc: str, database: Database, request: Message) -> Access:
    """Return what the database makes of the RPC on a read-only session."""
    refusal: errors.Forbidden | None = None
    try:
        await run(rpc, database, request)
    except errors.Forbidden as error:
        refusal = error
    if refusal is None:
        return Access.READ
    assert isinstance(refusal.__cause__, asyncpg.PostgresError)
    assert refusal.__cause__.sqlstate == "25006"
    assert refusal.message.startswith("cannot issue write request on a read-only replica: ")
    return Access.WRITE


def test_every_rpc_of_the_service_is_in_every_table() -> None:
    assert len(METHODS) == 43
    assert set(METHODS) == set(RPCS)
    assert set(METHODS) == set(REQUESTS)
    assert set(METHODS) == set(UNARY) | set(STREAMING)
    streaming = {method.name for method in SERVICE.methods if method.server_streaming}
    assert streaming == set(STREAMING) == {rpc.name for rpc in RPCS.values() if rpc.is_streaming}


@pytest.mark.parametrize("rpc", METHODS)
async def test_the_access_class_is_what_postgresql_says(
    rpc: str, clean: Scratch, shared_database: Database, read_only: Database
) -> None:
    world = await make_world(shared_database)
    request = REQUESTS[rpc](world)

    access = await access_by_postgres(rpc, read_only, request)

    assert access is RPCS[rpc].access
    answer = await run(rpc, shared_database, request)
    assert answer


async def test_the_identity_is_a_write_even_when_it_exists(
    clean: Scratch, shared_database: Database, read_only: Database
) -> None:
    request = pb.GetClusterIdentityRequest()
    await run("GetClusterIdentity", shared_database, request)

    access = await access_by_postgres("GetClusterIdentity", read_only, request)

    assert access is Access.WRITE
