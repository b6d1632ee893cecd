"""One call of every kind, to see what nodes send: each statement, and how much it may read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import replace
from importlib import resources
from typing import Any, Final

from google.protobuf.message import Message

from proxy import errors
from proxy.identifiers import index_uid_message
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import split_lists
from proxy.store.heartbeat import LOCK
from proxy.store.lag import HEARTBEAT_KEY
from proxy.store.metastore import UNARY
from proxy.store.queries import query
from tests.bench import corpus
from tests.support.complete_requests import REQUESTS, World, make_world
from tests.support.making import ULID_TEXT, shard_ids
from tests.support.parquet_samples import list_query
from tests.support.plan_tables import SIDE_INDEXES, SIDE_ROWS
from tests.support.plans import BY_KEY, FEW, RecordingDatabase, Sent

# Statements of migrations and questions about the server itself read no table of the metastore.
_NO_TABLE: Final = ("migrations/", "replication/")
# Nothing but the order of delete tasks is indexed: those of other indexes are read as well.
_ALLOWED: Final = {
    "delete_tasks/list": FEW + 2 * SIDE_ROWS,
    "delete_tasks/last_opstamp": FEW + 2 * SIDE_ROWS,
    # What is new in a GIN index is read before it is sorted in.
    "parquet/list": 3 * FEW,
}


async def recorded(database: RecordingDatabase) -> list[Sent]:
    """Serve one call of each RPC; return what was sent, each statement once.

    `AssertionError` naming statements that no call has sent: those need a call here.
    """
    world = await make_world(database)
    for rpc, request in _others(world):
        await UNARY[rpc](database, request)
    for rpc, make in REQUESTS.items():
        if rpc == "ListSplits":
            messages = split_lists.list_splits(database, make(world))
            async with aclosing(messages):
                _ = [message async for message in messages]
            continue
        # Some are refused, as those before them have changed what they are about.
        with suppress(errors.MetastoreError):
            await UNARY[rpc](database, make(world))
    sent = {one.sql: one for one in [*database.sent, *_heartbeat()]}
    missing = {name for name in statements() if not _is_among(name, sent.values())}
    assert not missing, f"no call has sent {sorted(missing)}"
    judged = [replace(one, blocks=_ALLOWED.get(one.name, FEW)) for one in sent.values()]
    for rpc, request, blocks in _scoped():
        database.sent.clear()
        await UNARY[rpc](database, request)
        what = f"{rpc} {str(request).replace(chr(10), ' ')[:160]}"
        judged += [replace(one, name=what, blocks=blocks) for one in database.sent]
    return judged


def _others(world: World) -> list[tuple[str, Message]]:
    """Return calls that send other statements than those of `REQUESTS`."""
    subject: dict[str, Any] = {"index_uid": world.uid, "source_id": "_ingest-source"}
    partitions = {"per_partition": {"s1": {"from": "", "to": "00000000000000000010"}}}
    delta = json.dumps({"source_id": "_ingest-source", "source_delta": partitions})
    return [
        ("IndexMetadata", pb.IndexMetadataRequest(index_id="web-logs")),
        ("MarkSplitsForDeletion", pb.MarkSplitsForDeletionRequest(**_unknown(world))),
        ("DeleteSplits", pb.DeleteSplitsRequest(**_unknown(world))),
        ("OpenShards", REQUESTS["OpenShards"](world)),
        ("OpenShards", REQUESTS["OpenShards"](world)),
        (
            "AcquireShards",
            pb.AcquireShardsRequest(
                **subject, shard_ids=shard_ids("s1"), publish_token=f"{ULID_TEXT}-1"
            ),
        ),
        (
            "PublishSplits",
            pb.PublishSplitsRequest(
                index_uid=world.uid,
                index_checkpoint_delta_json_opt=delta,
                publish_token_opt=f"{ULID_TEXT}-1",
            ),
        ),
    ]


def _unknown(world: World) -> dict[str, Any]:
    return {"index_uid": world.uid, "split_ids": ["unknown"]}


def _is_among(name: str, sent: Iterable[Sent]) -> bool:
    """Whether a statement was sent, by itself or as the end of another."""
    return any(one.name == name or one.sql.endswith(query(name)) for one in sent)


def statements() -> set[str]:
    """Return the names of all statements in files, but for those that read no table."""
    root = resources.files("proxy.store").joinpath("sql", "queries")
    names = {
        f"{entity.name}/{file.name.removesuffix('.sql')}"
        for entity in root.iterdir()
        for file in entity.iterdir()
    }
    return {name for name in names if not name.startswith(_NO_TABLE)}


def _heartbeat() -> list[Sent]:
    beat = (HEARTBEAT_KEY, "node", "cluster", 1, "127.0.0.1:7280")
    return [
        Sent(name, query(name), values)
        for name, values in {
            "lag/heartbeat": (HEARTBEAT_KEY,),
            "lag/lead": (LOCK, HEARTBEAT_KEY),
            "lag/beat": beat,
            "lag/beat_without_wal": beat,
        }.items()
    ]


def _scoped() -> list[tuple[str, Message, int]]:
    """Return calls that want a part of a table, and how many blocks will do for it."""
    uid = corpus.index_uid(3)
    mine = FEW + BY_KEY * SIDE_ROWS // SIDE_INDEXES
    window = {"start": {"Included": 1_750_000_600}, "end": {"Excluded": 1_750_000_660}}
    published: dict[str, Any] = {"split_states": ["Published"]}
    scope = {"time_range": window, "sort_fields": "metric_name"}
    lists = [
        (mine, published),
        (FEW + 2 * BY_KEY * 120, {**published, "time_range": window}),
        (FEW + BY_KEY * 120, {**published, **scope}),
    ]
    patterns = (["logs-0003"], ["logs-0003*"], ["logs-0003", "logs-0007*", "-logs-0004"])
    return [
        *(
            (
                f"List{family}Splits",
                getattr(pb, f"List{family}SplitsRequest")(
                    index_uid=index_uid_message(uid), query_json=json.dumps(list_query(uid, **keys))
                ),
                blocks,
            )
            for family in ("Metrics", "Sketch")
            for blocks, keys in lists
        ),
        *(
            (rpc, getattr(pb, f"{rpc}Request")(index_id_patterns=each), FEW)
            for rpc in ("ListIndexesMetadata", "ListIndexStats")
            for each in patterns
        ),
    ]
