"""A database with a row of every kind, and for every RPC a valid request with every field set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from proxy import identifiers
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store.metastore import UNARY
from proxy.store.pool import Database
from tests.support.index_documents import kafka_config, web_logs_config
from tests.support.making import DOC_MAPPING_UID, ULID_TEXT, index_config, shard_ids, source_config
from tests.support.parquet_samples import list_query, metadata

INCLUDED_RANGE = {"start": {"Included": 0}, "end": {"Excluded": 2_000_000_000}}


@dataclass(frozen=True)
class World:
    """The indexes in the database: a full one, one without metrics splits."""

    uid: common_pb2.IndexUid
    empty_uid: common_pb2.IndexUid

    @property
    def text(self) -> str:
        """The UID of the full index as text."""
        return identifiers.index_uid_text(self.uid)


def _split(world: World, split_id: str) -> dict[str, Any]:
    return {
        "version": "0.9",
        "split_id": split_id,
        "index_uid": world.text,
        "partition_id": 7,
        "source_id": "vector",
        "node_id": "indexer-1",
        "num_docs": 1,
        "uncompressed_docs_size_in_bytes": 1,
        "time_range": {"start": 1, "end": 2},
        "create_timestamp": 1_787_000_000,
        "maturity": {"type": "immature", "maturation_period_millis": 1000},
        "tags": ["a", "b"],
        "footer_offsets": {"start": 1, "end": 2},
        "delete_opstamp": 0,
        "num_merge_ops": 0,
        "doc_mapping_uid": ULID_TEXT,
    }


def _split_query(world: World) -> dict[str, Any]:
    return {
        "index_uids": [world.text],
        "node_id": "indexer-1",
        "limit": 10,
        "offset": 0,
        "split_states": ["Staged"],
        "tags": {"And": [{"Tag": {"is_present": True, "tag": "a"}}]},
        "time_range": INCLUDED_RANGE,
        "max_time_range_end": 2_000_000_000,
        "delete_opstamp": INCLUDED_RANGE,
        "update_timestamp": INCLUDED_RANGE,
        "create_timestamp": INCLUDED_RANGE,
        "mature": {"Included": [2026, 233, 18, 59, 3, 120000000, 0, 0, 0]},
        "sort_by": "IndexUid",
        "after_split": [world.text, "a"],
        "included_split_ids": ["staged"],
        "excluded_split_ids": ["x"],
    }


def _parquet_split(world: World, split_id: str) -> dict[str, Any]:
    return metadata(
        split_id,
        world.text,
        low_cardinality_tags={"service": ["api"]},
        high_cardinality_tag_keys=["pod"],
        parquet_file="f",
        window_start=60,
        window_duration_secs=60,
        sort_fields="a",
        row_keys_proto=[1, 2],
        zonemap_regexes={"a": "b"},
        rg_partition_prefix_len=1,
        maturity={"type": "immature", "maturation_period_millis": 1000},
    )


def _parquet_query(world: World) -> dict[str, Any]:
    tags = {f"tag_{key}": "x" for key in ("service", "env", "datacenter", "region", "host")}
    return list_query(
        world.text,
        split_states=["Staged"],
        time_range=INCLUDED_RANGE,
        metric_names=["cpu.usage"],
        sort_fields="a",
        node_id="n",
        delete_opstamp=INCLUDED_RANGE,
        update_timestamp=INCLUDED_RANGE,
        create_timestamp=INCLUDED_RANGE,
        mature={"Included": [2026, 233, 18, 59, 3, 120000000, 0, 0, 0]},
        limit=10,
        after_split_id="a",
        max_time_range_end=2_000_000_000,
        **tags,
    )


def _template(template_id: str) -> str:
    config = web_logs_config()
    shared = ("doc_mapping", "indexing_settings", "ingest_settings", "search_settings", "retention")
    return json.dumps(
        {
            "version": "0.9",
            "template_id": template_id,
            "index_id_patterns": ["logs-*", "-logs-dev*"],
            "index_root_uri": "s3://acme",
            "priority": 1,
            "description": "logs",
            **{key: config[key] for key in shared},
        }
    )


def _source() -> dict[str, Any]:
    transform = {"script": ".message = 1", "timezone": "UTC"}
    return kafka_config(transform=transform)


def _delta(world: World) -> str:
    interval = {"from": "", "to": "00000000000000000010"}
    partitions = {"source_delta": {"per_partition": {"p": interval}}}
    return json.dumps({"source_id": "vector", **partitions})


def _shard(world: World, shard_id: str) -> pb.OpenShardSubrequest:
    return pb.OpenShardSubrequest(
        subrequest_id=1,
        index_uid=world.uid,
        source_id="_ingest-source",
        shard_id=ingest_pb2.ShardId(shard_id=shard_id.encode()),
        ingester_id="ingester-1",
        doc_mapping_uid=DOC_MAPPING_UID,
        publish_token=ULID_TEXT,
    )


def _stage(world: World, *split_ids: str) -> pb.StageSplitsRequest:
    documents = [_split(world, split_id) for split_id in split_ids]
    return pb.StageSplitsRequest(
        index_uid=world.uid, split_metadata_list_serialized_json=json.dumps(documents)
    )


def _update(world: World) -> pb.UpdateIndexRequest:
    config = web_logs_config()
    # What the index has, but for the retention and the settings: the mapping stays.
    return pb.UpdateIndexRequest(
        index_uid=world.uid,
        search_settings_json=json.dumps({"default_search_fields": ["message"]}),
        retention_policy_json_opt=json.dumps({"period": "30 days", "schedule": "daily"}),
        indexing_settings_json=json.dumps(config["indexing_settings"]),
        doc_mapping_json=json.dumps(config["doc_mapping"]),
        ingest_settings_json=json.dumps(config["ingest_settings"]),
    )


def _publish(request_class: Callable[..., Message], world: World) -> Message:
    return request_class(
        index_uid=world.uid,
        staged_split_ids=["staged"],
        replaced_split_ids=["published"],
        index_checkpoint_delta_json_opt=_delta(world),
        publish_token_opt=ULID_TEXT,
    )


def _subject(world: World) -> dict[str, Any]:
    return {"index_uid": world.uid, "source_id": "_ingest-source"}


def _family(name: str) -> dict[str, Callable[[World], Message]]:
    """Return the requests of the RPCs of metrics or of sketch splits."""
    stage, publish = getattr(pb, f"Stage{name}SplitsRequest"), f"Publish{name}SplitsRequest"
    ids = {
        f"Mark{name}SplitsForDeletion": "staged",
        f"Delete{name}Splits": "marked",
    }
    return {
        f"Stage{name}Splits": lambda world: stage(
            index_uid=world.uid, splits_metadata_json=[json.dumps(_parquet_split(world, "new"))]
        ),
        f"Publish{name}Splits": lambda world: _publish(getattr(pb, publish), world),
        f"List{name}Splits": lambda world: getattr(pb, f"List{name}SplitsRequest")(
            index_uid=world.uid, query_json=json.dumps(_parquet_query(world))
        ),
        **{
            rpc: lambda world, rpc=rpc, split_id=split_id: getattr(pb, f"{rpc}Request")(
                index_uid=world.uid, split_ids=[split_id]
            )
            for rpc, split_id in ids.items()
        },
    }


REQUESTS: dict[str, Callable[[World], Message]] = {
    "CreateIndex": lambda _: pb.CreateIndexRequest(
        index_config_json=json.dumps(web_logs_config("metrics")),
        source_configs_json=[json.dumps(_source())],
    ),
    "UpdateIndex": _update,
    "IndexMetadata": lambda world: pb.IndexMetadataRequest(
        index_id="web-logs", index_uid=world.uid
    ),
    "IndexesMetadata": lambda world: pb.IndexesMetadataRequest(
        subrequests=[pb.IndexMetadataSubrequest(index_id="web-logs", index_uid=world.uid)]
    ),
    "ListIndexesMetadata": lambda _: pb.ListIndexesMetadataRequest(index_id_patterns=["web-*"]),
    "DeleteIndex": lambda world: pb.DeleteIndexRequest(index_uid=world.empty_uid),
    "ListIndexStats": lambda _: pb.ListIndexStatsRequest(index_id_patterns=["web-*"]),
    "ListSplits": lambda world: pb.ListSplitsRequest(query_json=json.dumps(_split_query(world))),
    "StageSplits": lambda world: _stage(world, "new"),
    "PublishSplits": lambda world: _publish(pb.PublishSplitsRequest, world),
    "MarkSplitsForDeletion": lambda world: pb.MarkSplitsForDeletionRequest(
        index_uid=world.uid, split_ids=["staged"]
    ),
    "DeleteSplits": lambda world: pb.DeleteSplitsRequest(index_uid=world.uid, split_ids=["marked"]),
    "ListStaleSplits": lambda world: pb.ListStaleSplitsRequest(
        index_uid=world.uid, delete_opstamp=1, num_splits=10
    ),
    "UpdateSplitsDeleteOpstamp": lambda world: pb.UpdateSplitsDeleteOpstampRequest(
        index_uid=world.uid, split_ids=["staged"], delete_opstamp=1
    ),
    "AddSource": lambda world: pb.AddSourceRequest(
        index_uid=world.uid, source_config_json=json.dumps(_source())
    ),
    "UpdateSource": lambda world: pb.UpdateSourceRequest(
        index_uid=world.uid, source_config_json=json.dumps({**_source(), "source_id": "vector"})
    ),
    "ToggleSource": lambda world: pb.ToggleSourceRequest(
        index_uid=world.uid, source_id="disabled", enable=True
    ),
    "DeleteSource": lambda world: pb.DeleteSourceRequest(**_subject(world)),
    "ResetSourceCheckpoint": lambda world: pb.ResetSourceCheckpointRequest(**_subject(world)),
    "LastDeleteOpstamp": lambda world: pb.LastDeleteOpstampRequest(index_uid=world.uid),
    "CreateDeleteTask": lambda world: pb.DeleteQuery(
        index_uid=world.uid, start_timestamp=1, end_timestamp=2, query_ast='{"type":"match_all"}'
    ),
    "ListDeleteTasks": lambda world: pb.ListDeleteTasksRequest(
        index_uid=world.uid, opstamp_start=1
    ),
    "OpenShards": lambda world: pb.OpenShardsRequest(subrequests=[_shard(world, "s2")]),
    "AcquireShards": lambda world: pb.AcquireShardsRequest(
        **_subject(world), shard_ids=shard_ids("s1"), publish_token=f"{ULID_TEXT}-2"
    ),
    "DeleteShards": lambda world: pb.DeleteShardsRequest(
        **_subject(world), shard_ids=shard_ids("s1"), force=True
    ),
    "PruneShards": lambda world: pb.PruneShardsRequest(
        **_subject(world), max_age_secs=1000, max_count=1, interval_secs=1
    ),
    "ListShards": lambda world: pb.ListShardsRequest(
        subrequests=[
            pb.ListShardsSubrequest(**_subject(world), shard_state=ingest_pb2.SHARD_STATE_OPEN)
        ]
    ),
    "CreateIndexTemplate": lambda _: pb.CreateIndexTemplateRequest(
        index_template_json=_template("new"), overwrite=True
    ),
    "GetIndexTemplate": lambda _: pb.GetIndexTemplateRequest(template_id="stored"),
    "FindIndexTemplateMatches": lambda _: pb.FindIndexTemplateMatchesRequest(index_ids=["logs-1"]),
    "ListIndexTemplates": lambda _: pb.ListIndexTemplatesRequest(),
    "DeleteIndexTemplates": lambda _: pb.DeleteIndexTemplatesRequest(template_ids=["stored"]),
    "GetClusterIdentity": lambda _: pb.GetClusterIdentityRequest(),
    **_family("Metrics"),
    **_family("Sketch"),
}


async def make_world(database: Database) -> World:
    """Put a row of every kind into an empty database."""

    async def call(rpc: str, request: Message) -> Any:
        return await UNARY[rpc](database, request)

    sources = source_config("vector"), source_config("_ingest-source", "ingest")
    disabled = {**source_config("disabled"), "enabled": False}
    created = await call(
        "CreateIndex",
        pb.CreateIndexRequest(
            index_config_json=json.dumps(web_logs_config()),
            source_configs_json=[json.dumps(source) for source in (*sources, disabled)],
        ),
    )
    empty = await call(
        "CreateIndex", pb.CreateIndexRequest(index_config_json=json.dumps(index_config("empty")))
    )
    world = World(created.index_uid, empty.index_uid)
    await call("StageSplits", _stage(world, "staged", "published", "marked"))
    await _advance(call, world, "", "SplitsForDeletion")
    for name in ("Metrics", "Sketch"):
        documents = [
            json.dumps(_parquet_split(world, split_id))
            for split_id in ("staged", "published", "marked")
        ]
        stage = getattr(pb, f"Stage{name}SplitsRequest")
        request = stage(index_uid=world.uid, splits_metadata_json=documents)
        await call(f"Stage{name}Splits", request)
        await _advance(call, world, name, "SplitsForDeletion")
    await call("OpenShards", pb.OpenShardsRequest(subrequests=[_shard(world, "s1")]))
    await call("CreateDeleteTask", pb.DeleteQuery(index_uid=world.uid, query_ast="{}"))
    request = pb.CreateIndexTemplateRequest(index_template_json=_template("stored"))
    await call("CreateIndexTemplate", request)
    await call("GetClusterIdentity", pb.GetClusterIdentityRequest())
    return world


async def _advance(
    call: Callable[[str, Message], Any], world: World, name: str, suffix: str
) -> None:
    publish = getattr(pb, f"Publish{name}SplitsRequest")
    request = publish(index_uid=world.uid, staged_split_ids=["published", "marked"])
    await call(f"Publish{name}Splits", request)
    mark = getattr(pb, f"Mark{name}{suffix}Request")
    await call(f"Mark{name}{suffix}", mark(index_uid=world.uid, split_ids=["marked"]))
