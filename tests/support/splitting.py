"""Splits for tests: documents, requests, and the calls that take them through their life."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.identifiers import index_uid_message, index_uid_text
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.split_queries import ALL

CREATED = 1_700_000_000
NIL_ULID = "0" * 26


def dumped(value: object) -> str:
    """Return compact JSON, as Quickwit writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def document(uid: common_pb2.IndexUid, split_id: str, **changes: Any) -> dict[str, Any]:
    """Return the metadata of one split, complete, in the writer's key order."""
    return {
        "version": "0.9",
        "split_id": split_id,
        "index_uid": index_uid_text(uid),
        "partition_id": 0,
        "source_id": "source",
        "node_id": "indexer-1",
        "num_docs": 10,
        "uncompressed_docs_size_in_bytes": 1024,
        "time_range": None,
        "create_timestamp": CREATED,
        "maturity": {"type": "mature"},
        "tags": [],
        "footer_offsets": {"start": 1000, "end": 2000},
        "delete_opstamp": 0,
        "num_merge_ops": 0,
        "doc_mapping_uid": NIL_ULID,
        **changes,
    }


def query(**changes: Any) -> pb.ListSplitsRequest:
    """Return a request for all splits but for what `changes` say."""
    return pb.ListSplitsRequest(query_json=dumped({**ALL, **changes}))


def delta(source_id: str, **positions: tuple[str, str]) -> str:
    """Return a checkpoint delta: partition -> (from, to)."""
    return deltas(source_id, positions)


def deltas(source_id: str, positions: dict[str, tuple[str, str]]) -> str:
    """Return a checkpoint delta for partitions of any name."""
    partitions = {key: {"from": start, "to": end} for key, (start, end) in positions.items()}
    return dumped({"source_id": source_id, "source_delta": {"per_partition": partitions}})


async def stage(
    metastore: Metastore, uid: common_pb2.IndexUid, *splits: str | dict[str, Any]
) -> None:
    """Stage splits given by ID or by document."""
    documents = [document(uid, item) if isinstance(item, str) else item for item in splits]
    await stage_text(metastore, uid, dumped(documents))


async def stage_text(metastore: Metastore, uid: common_pb2.IndexUid, text: str) -> None:
    """Stage a list of splits given as text."""
    request = pb.StageSplitsRequest(index_uid=uid, split_metadata_list_serialized_json=text)
    assert await metastore.call("StageSplits", request) == pb.EmptyResponse()


async def publish(
    metastore: Metastore,
    uid: common_pb2.IndexUid,
    *staged: str,
    replaced: Iterable[str] = (),
    checkpoint: str | None = None,
    token: str | None = None,
) -> None:
    """Publish splits, with a checkpoint delta where one is given."""
    request = pb.PublishSplitsRequest(
        index_uid=uid,
        staged_split_ids=staged,
        replaced_split_ids=replaced,
        index_checkpoint_delta_json_opt=checkpoint,
        publish_token_opt=token,
    )
    assert await metastore.call("PublishSplits", request) == pb.EmptyResponse()


async def published(
    metastore: Metastore, uid: common_pb2.IndexUid, *splits: str | dict[str, Any]
) -> None:
    """Stage and publish splits."""
    await stage(metastore, uid, *splits)
    ids = [item if isinstance(item, str) else item["split_id"] for item in splits]
    await publish(metastore, uid, *ids)


async def mark(metastore: Metastore, uid: common_pb2.IndexUid, *split_ids: str) -> None:
    """Mark splits for deletion."""
    request = pb.MarkSplitsForDeletionRequest(index_uid=uid, split_ids=split_ids)
    assert await metastore.call("MarkSplitsForDeletion", request) == pb.EmptyResponse()


async def delete(metastore: Metastore, uid: common_pb2.IndexUid, *split_ids: str) -> None:
    """Delete splits."""
    request = pb.DeleteSplitsRequest(index_uid=uid, split_ids=split_ids)
    assert await metastore.call("DeleteSplits", request) == pb.EmptyResponse()


async def set_opstamp(
    metastore: Metastore, uid: common_pb2.IndexUid, opstamp: int, *split_ids: str
) -> None:
    """Set the delete opstamp of splits."""
    request = pb.UpdateSplitsDeleteOpstampRequest(
        index_uid=uid, split_ids=split_ids, delete_opstamp=opstamp
    )
    response = await metastore.call("UpdateSplitsDeleteOpstamp", request)
    assert response == pb.UpdateSplitsDeleteOpstampResponse()


async def stale(
    metastore: Metastore, uid: common_pb2.IndexUid, opstamp: int, count: int = 100
) -> list[str]:
    """Return the IDs of stale splits, in the order of the answer."""
    request = pb.ListStaleSplitsRequest(index_uid=uid, delete_opstamp=opstamp, num_splits=count)
    response = await metastore.call("ListStaleSplits", request)
    return [split["split_id"] for split in json.loads(response.splits_serialized_json)]


async def listed(metastore: Metastore, **changes: Any) -> list[dict[str, Any]]:
    """Return the splits that a query finds, in the order of the answer."""
    return unpacked(await metastore.stream("ListSplits", query(**changes)))


def unpacked(messages: Sequence[pb.ListSplitsResponse]) -> list[dict[str, Any]]:
    """Return the splits of the messages of a stream."""
    return [split for message in messages for split in json.loads(message.splits_serialized_json)]


async def listed_ids(metastore: Metastore, **changes: Any) -> list[str]:
    """Return the IDs that a query finds, in the order of the answer."""
    return [split["split_id"] for split in await listed(metastore, **changes)]


async def found(metastore: Metastore, **changes: Any) -> set[str]:
    """Return the IDs that a query finds; each must be found once."""
    ids = await listed_ids(metastore, **changes)
    assert len(ids) == len(set(ids))
    return set(ids)


async def states(metastore: Metastore) -> dict[str, str]:
    """Return the state of every split in the database."""
    rows = await metastore.sql.fetch("SELECT split_id, split_state FROM splits")
    return {row["split_id"]: row["split_state"] for row in rows}


async def split_row(metastore: Metastore, split_id: str) -> dict[str, Any]:
    """Return all columns of one split."""
    row = await metastore.sql.fetchrow("SELECT * FROM splits WHERE split_id = $1", split_id)
    assert row is not None
    return dict(row)


async def stored_checkpoint(metastore: Metastore, index_id: str = "web-logs") -> dict[str, Any]:
    """Return the checkpoint in an index's metadata."""
    text = await metastore.sql.fetchval(
        "SELECT index_metadata_json FROM indexes WHERE index_id = $1", index_id
    )
    checkpoint: dict[str, Any] = json.loads(text)["checkpoint"]
    return checkpoint


async def all_rows(metastore: Metastore) -> list[tuple[Any, ...]]:
    """Return the contents of the tables that splits touch, to prove that nothing changed."""
    rows: list[tuple[Any, ...]] = []
    for table in ("indexes", "splits", "shards"):
        for row in await metastore.sql.fetch(f"SELECT * FROM {table} ORDER BY 1, 2"):
            rows.append((table, *row.values()))
    return rows


def other_incarnation(uid: common_pb2.IndexUid) -> common_pb2.IndexUid:
    """Return a UID of the same index ID with another incarnation."""
    return index_uid_message(f"{uid.index_id}:01J5ZQ3V7Y8M4N6P2R9S0T1VWX")
