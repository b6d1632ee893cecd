"""A state machine that asks a node and the model and compares; the rules come from a subclass."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc
import zstandard
from google.protobuf.message import Message
from hypothesis.stateful import RuleBasedStateMachine, invariant

from proxy import errors
from proxy.identifiers import index_uid_message, index_uid_text
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support import model_queries as draw
from tests.support import splitting
from tests.support.making import ULID_TEXT
from tests.support.model import Document, Index, Model, Refusal, Shard, Split
from tests.support.remote_access import GrpcWay

# Steps between two comparisons of everything.
FULL_CHECK = 6
T = TypeVar("T")


class Driver:
    """Calls a node from the machine's thread; the connection lives in the test's event loop."""

    def __init__(self, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._way = GrpcWay(channel)
        self._loop = loop
        self._numbers = itertools.count(1)
        self.outcomes: Counter[str] = Counter()

    def new_prefix(self) -> str:
        """Return what the index IDs of one sequence start with."""
        return f"model{next(self._numbers)}x"

    def call(self, rpc_name: str, request: Message) -> Any:
        return self._wait(self._way.call(rpc_name, request))

    def stream(self, rpc_name: str, request: Message) -> list[Any]:
        async def collected() -> list[Any]:
            return [message async for message in self._way.stream(rpc_name, request)]

        return self._wait(collected())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def describe(error: errors.MetastoreError) -> tuple[str, Any]:
    """Return variant and entity of an error as the model puts them."""
    payload = json.loads(error.to_json())
    ((variant, content),) = payload.items()
    if variant in ("Db", "InvalidArgument"):
        return variant, None
    entity = content["entity"] if variant == "FailedPrecondition" else content
    if "splits" in entity:
        entity["splits"]["split_ids"] = sorted(set(entity["splits"]["split_ids"]))
    return variant, entity


def split_view(split: Split) -> Document:
    """Return what the model says about a split."""
    state = {"split_state": split.state, "is_published": split.publish is not None}
    return {**split.document, **state, "create_timestamp": None}


def listed_view(listed: Document) -> Document:
    """Return the same of a split that the node lists."""
    times = {"update_timestamp": listed["update_timestamp"], "create": listed["create_timestamp"]}
    assert all(isinstance(value, int) for value in times.values())
    view = {**listed, "is_published": listed["publish_timestamp"] is not None}
    del view["update_timestamp"], view["publish_timestamp"]
    return {**view, "create_timestamp": None}


def index_view(index: Index) -> Document:
    """Return what the model says about an index's metadata."""
    return {
        "version": "0.9",
        "index_uid": index.uid,
        "index_config": index.config,
        "checkpoint": index.checkpoint,
        "sources": index.sources,
    }


def metadata_view(metadata: Document) -> Document:
    """Return the same of the metadata that the node serves."""
    sources = {source["source_id"]: source for source in metadata["sources"]}
    assert len(sources) == len(metadata["sources"])
    view = {**metadata, "sources": sources}
    del view["create_timestamp"]
    return view


def shard_view(shard: ingest_pb2.Shard) -> Shard:
    """Return what the node says about a shard."""
    return Shard(
        shard.publish_token if shard.HasField("publish_token") else None,
        shard.publish_position_inclusive.position.decode(),
        ingest_pb2.ShardState.Name(shard.shard_state).removeprefix("SHARD_STATE_").lower(),
    )


def by_key(splits: Any) -> dict[tuple[str, str], Document]:
    """Return splits by index and ID."""
    return {(split["index_uid"], split["split_id"]): split for split in splits}


class Comparison(RuleBasedStateMachine):
    """The machine without its rules; its indexes belong to one sequence alone."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver
        self.model = Model()
        self.prefix = driver.new_prefix()
        self.uids: dict[str, list[str]] = {"a": [], "b": []}
        self.steps = 0
        self.has_failed = False

    def agree(
        self, rpc_name: str, request: Message, expect: Callable[[], T]
    ) -> tuple[Any, T] | None:
        """Ask node and model; None if both refuse for the same reason."""
        said: tuple[str, Any] | None = None
        refusal: Refusal | None = None
        answer: Any = None
        try:
            answer = self.driver.call(rpc_name, request)
        except errors.MetastoreError as error:
            said = describe(error)
        try:
            expected = expect()
        except Refusal as error:
            refusal = error
        kinds = [*said[1]] if said and said[1] else []
        self.driver.outcomes[" ".join([rpc_name, *([said[0], *kinds] if said else [])])] += 1
        if refusal is None:
            self.same(said, None, rpc_name)
            return answer, expected
        alternatives = [(refusal.variant, entity) for entity in refusal.entities or (None,)]
        self.same(said in alternatives, True, f"{rpc_name}: node {said}, model {alternatives}")
        return None

    def ask(self, rpc_name: str, request: Message) -> Any:
        """Make a call that the node may not refuse."""
        try:
            return self.driver.call(rpc_name, request)
        except errors.MetastoreError:
            self.has_failed = True
            raise

    def same(self, actual: object, expected: object, what: str) -> None:
        """Compare; a failure is remembered, so that `teardown` does not add another one."""
        self.has_failed = self.has_failed or actual != expected
        assert actual == expected, what

    # Which index

    def index_id(self, name: str) -> str:
        return self.prefix + name

    def uid(self, which: str) -> str:
        """Return the UID that a which stands for; it may be one of no index."""
        known = self.uids["a"][:-1] if which == "old" else self.uids.get(which)
        return (
            known[-1] if known else f"{self.index_id('a' if which == 'old' else which)}:{ULID_TEXT}"
        )

    def wire(self, which: str) -> tuple[str, common_pb2.IndexUid]:
        uid = self.uid(which)
        return uid, index_uid_message(uid)

    @property
    def all_uids(self) -> list[str]:
        return [uid for known in self.uids.values() for uid in known]

    def listed(self, **query: Any) -> list[Document]:
        try:
            messages = self.driver.stream("ListSplits", splitting.query(**query))
        except errors.MetastoreError:
            self.has_failed = True
            raise
        return [listed_view(split) for split in splitting.unpacked(messages)]

    def selected(self, uids: list[str], query: Document) -> list[tuple[tuple[str, str], Split]]:
        return [
            ((uid, split_id), split)
            for uid in dict.fromkeys(uids)
            if uid in self.model.indexes
            for split_id, split in self.model.indexes[uid].splits.items()
            if draw.selects(query, split)
        ]

    # Everything

    @invariant()
    def agree_now_and_then(self) -> None:
        self.steps += 1
        if self.steps % FULL_CHECK == 0:
            self.agree_on_everything()

    def teardown(self) -> None:
        if self.has_failed:
            return
        self.agree_on_everything()
        for uid in self.model.indexes:
            self.ask("DeleteIndex", pb.DeleteIndexRequest(index_uid=index_uid_message(uid)))

    def agree_on_everything(self) -> None:
        self.agree_on_indexes()
        uids = self.all_uids
        found = self.listed(index_uids=uids)
        splits = [split_view(split) for _, split in self.selected(uids, {})]
        self.same(by_key(found), by_key(splits), "all splits")
        self.agree_on_shards(uids)
        for uid in uids:
            request = pb.ListDeleteTasksRequest(index_uid=index_uid_message(uid))
            tasks = self.ask("ListDeleteTasks", request).delete_tasks
            opstamps = {task.opstamp: task.delete_query for task in tasks}
            self.same(opstamps, self.model.tasks(uid), "all delete tasks")

    def agree_on_indexes(self) -> None:
        pattern = [f"{self.prefix}*"]
        blob = self.ask(
            "ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=pattern)
        ).indexes_metadata_json_zstd
        text = zstandard.ZstdDecompressor().decompressobj().decompress(blob)
        found = {item["index_uid"]: metadata_view(item) for item in json.loads(text)}
        expected = {uid: index_view(index) for uid, index in self.model.indexes.items()}
        self.same(found, expected, "all indexes")
        request = pb.ListIndexStatsRequest(index_id_patterns=pattern)
        stats = {
            index_uid_text(item.index_uid): {
                state: (counts.num_splits, counts.total_size_bytes)
                for state, counts in zip(
                    draw.STATES,
                    (item.staged, item.published, item.marked_for_deletion),
                    strict=True,
                )
            }
            for item in self.ask("ListIndexStats", request).index_stats
        }
        self.same(stats, {uid: self.model.stats(uid) for uid in expected}, "all statistics")

    def agree_on_shards(self, uids: list[str]) -> None:
        subrequests = [
            pb.ListShardsSubrequest(index_uid=index_uid_message(uid), source_id=source_id)
            for uid in uids
            for source_id in draw.SOURCE_IDS
        ]
        answer = self.ask("ListShards", pb.ListShardsRequest(subrequests=subrequests))
        found = {
            (
                index_uid_text(item.index_uid),
                item.source_id,
                shard.shard_id.shard_id.decode(),
            ): shard_view(shard)
            for item in answer.subresponses
            for shard in item.shards
        }
        expected = {
            (uid, *key): shard
            for uid, index in self.model.indexes.items()
            for key, shard in index.shards.items()
        }
        self.same(found, expected, "all shards")
