"""Random sequences of calls to a node and to a model of the metastore agree in every answer.

The sequences are the same in every run, so that a failure can be repeated.
`METASTORE_PROXY_TEST_MODEL_EXAMPLES` asks for another number of them, drawn anew each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support import model_queries as draw
from tests.support import splitting
from tests.support.making import DOC_MAPPING_UID, index_config, shard_ids
from tests.support.model import Deltas, Document, Index
from tests.support.model_machine import (
    Comparison,
    Driver,
    by_key,
    index_view,
    metadata_view,
    shard_view,
    split_view,
)
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch

EXAMPLES = os.environ.get("METASTORE_PROXY_TEST_MODEL_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 200),
    stateful_step_count=30,
    derandomize=EXAMPLES is None,
    print_blob=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


class MetastoreMachine(Comparison):
    """Each rule draws one call."""

    # Indexes

    @initialize(reached=st.none() | st.sampled_from(draw.POSITIONS))
    def start(self, reached: str | None) -> None:
        sources = [draw.source_config("src-a", "void", True)]
        self.create_index("a", [*sources, draw.source_config("src-b", "ingest", True)])
        self.open_shard("a", "src-b", "shard-1", draw.TOKENS[1])
        self.stage_splits("a", draw.FIRST_DOCUMENTS)
        delta = ("src-a", {"p-1": ("", reached)}) if reached is not None else None
        self.publish("a", list(draw.SPLIT_IDS[:2]), [], delta, None)
        if reached is None:
            self.reset_source_checkpoint("a", "src-a")
        self.mark_splits_for_deletion("a", [draw.SPLIT_IDS[2]])

    @rule(name=st.sampled_from("ab"), sources=st.lists(draw.source_configs, max_size=2))
    def create_index(self, name: str, sources: list[Document]) -> None:
        index_id = self.index_id(name)
        request = pb.CreateIndexRequest(
            index_config_json=json.dumps(index_config(index_id)),
            source_configs_json=[json.dumps(source) for source in sources],
        )
        source_ids = [source["source_id"] for source in sources]
        agreed = self.agree(
            "CreateIndex", request, lambda: self.model.check_create(index_id, source_ids)
        )
        if agreed is not None:
            uid = index_uid_text(agreed[0].index_uid)
            self.same(uid in self.all_uids, False, "a UID is new")
            config = json.loads(agreed[0].index_metadata_json)["index_config"]
            self.same(config["index_id"], index_id, "CreateIndex")
            self.model.created(uid, config, sources)
            self.uids[name].append(uid)

    @rule(which=draw.targets, luck=st.integers(0, 7))
    def delete_index(self, which: str, luck: int) -> None:
        # An index that lives for a while sees more.
        uid, message = self.wire(which if luck == 5 else "old")
        request = pb.DeleteIndexRequest(index_uid=message)
        self.agree("DeleteIndex", request, lambda: self.model.delete_index(uid))

    @rule(
        which=draw.targets,
        timeout=st.sampled_from([10, 60]),
        retention=st.sampled_from([None, {"period": "7 days", "schedule": "daily"}]),
    )
    def update_index(self, which: str, timeout: int, retention: Document | None) -> None:
        uid, message = self.wire(which)
        known = self.model.indexes.get(uid) or self.model.indexes.get(self.uid("a"))
        if known is None:
            return
        config = known.config
        indexing = {**config["indexing_settings"], "commit_timeout_secs": timeout}
        request = pb.UpdateIndexRequest(
            index_uid=message,
            search_settings_json=json.dumps(config["search_settings"]),
            retention_policy_json_opt=json.dumps(retention) if retention else None,
            indexing_settings_json=json.dumps(indexing),
            doc_mapping_json=json.dumps(config["doc_mapping"]),
            ingest_settings_json=json.dumps(config["ingest_settings"]),
        )
        changes = {"indexing_settings": indexing, "retention": retention}
        agreed = self.agree("UpdateIndex", request, lambda: self.model.update_index(uid, changes))
        self.same_metadata(agreed, "UpdateIndex")

    @rule(which=draw.targets)
    def index_metadata(self, which: str) -> None:
        uid, message = self.wire(which)
        request = pb.IndexMetadataRequest(index_uid=message)
        agreed = self.agree("IndexMetadata", request, lambda: self.model.index(uid))
        self.same_metadata(agreed, "IndexMetadata")

    def same_metadata(self, agreed: tuple[Any, Index] | None, what: str) -> None:
        if agreed is not None:
            metadata = json.loads(agreed[0].index_metadata_serialized_json)
            self.same(metadata_view(metadata), index_view(agreed[1]), what)

    # Sources

    @rule(which=draw.targets, config=draw.source_configs)
    def add_source(self, which: str, config: Document) -> None:
        uid, message = self.wire(which)
        request = pb.AddSourceRequest(index_uid=message, source_config_json=json.dumps(config))
        self.agree("AddSource", request, lambda: self.model.add_source(uid, config))

    @rule(which=draw.targets, config=draw.source_configs)
    def update_source(self, which: str, config: Document) -> None:
        uid, message = self.wire(which)
        request = pb.UpdateSourceRequest(index_uid=message, source_config_json=json.dumps(config))
        self.agree("UpdateSource", request, lambda: self.model.update_source(uid, config))

    @rule(which=draw.targets, source_id=st.sampled_from(draw.SOURCE_IDS), enable=st.booleans())
    def toggle_source(self, which: str, source_id: str, enable: bool) -> None:
        uid, message = self.wire(which)
        request = pb.ToggleSourceRequest(index_uid=message, source_id=source_id, enable=enable)
        self.agree(
            "ToggleSource", request, lambda: self.model.toggle_source(uid, source_id, enable)
        )

    @rule(which=draw.targets, source_id=st.sampled_from(draw.SOURCE_IDS))
    def delete_source(self, which: str, source_id: str) -> None:
        uid, message = self.wire(which)
        request = pb.DeleteSourceRequest(index_uid=message, source_id=source_id)
        self.agree("DeleteSource", request, lambda: self.model.delete_source(uid, source_id))

    @rule(which=draw.targets, source_id=st.sampled_from(draw.SOURCE_IDS))
    def reset_source_checkpoint(self, which: str, source_id: str) -> None:
        uid, message = self.wire(which)
        request = pb.ResetSourceCheckpointRequest(index_uid=message, source_id=source_id)
        self.agree(
            "ResetSourceCheckpoint", request, lambda: self.model.reset_checkpoint(uid, source_id)
        )

    # Splits

    @rule(which=draw.targets, documents=draw.staged_lists)
    def stage_splits(self, which: str, documents: list[Document]) -> None:
        uid, message = self.wire(which)
        request = pb.StageSplitsRequest(
            index_uid=message, split_metadata_list_serialized_json=json.dumps(documents)
        )
        self.agree("StageSplits", request, lambda: self.model.stage(uid, documents))

    @rule(
        which=draw.targets,
        staged=draw.split_ids,
        replaced=draw.split_ids,
        delta=st.none() | draw.deltas,
        token=draw.tokens,
        is_proper=st.integers(0, 3),
    )
    def publish_splits(
        self,
        which: str,
        staged: list[str],
        replaced: list[str],
        delta: tuple[str, int, Deltas] | None,
        token: str | None,
        is_proper: int,
    ) -> None:
        index = self.model.indexes.get(self.uid(which))
        if index is not None and is_proper:
            # Three times out of four the splits are in the states that a publish needs.
            ready = {key: split.state for key, split in index.splits.items()}
            staged = [key for key in draw.SPLIT_IDS if ready.get(key) == "Staged"]
            replaced = [key for key in replaced if ready.get(key) == "Published"]
        self.publish(which, staged, replaced, *draw.resolve(index, delta, token))

    def publish(
        self,
        which: str,
        staged: list[str],
        replaced: list[str],
        delta: tuple[str, Deltas] | None,
        token: str | None,
    ) -> None:
        uid, message = self.wire(which)
        request = pb.PublishSplitsRequest(
            index_uid=message,
            staged_split_ids=staged,
            replaced_split_ids=replaced,
            index_checkpoint_delta_json_opt=delta and splitting.deltas(*delta),
            publish_token_opt=token,
        )
        self.agree(
            "PublishSplits",
            request,
            lambda: self.model.publish(uid, staged, replaced, delta, token),
        )

    @rule(
        which=draw.targets, deltas=st.lists(draw.deltas, min_size=2, max_size=6), token=draw.tokens
    )
    def advance_checkpoint(
        self, which: str, deltas: list[tuple[str, int, Deltas]], token: str | None
    ) -> None:
        for delta in deltas:
            index = self.model.indexes.get(self.uid(which))
            self.publish(which, [], [], *draw.resolve(index, delta, token))

    @rule(which=draw.targets, split_ids=draw.split_ids)
    def mark_splits_for_deletion(self, which: str, split_ids: list[str]) -> None:
        uid, message = self.wire(which)
        request = pb.MarkSplitsForDeletionRequest(index_uid=message, split_ids=split_ids)
        self.agree("MarkSplitsForDeletion", request, lambda: self.model.mark(uid, split_ids))

    @rule(which=draw.targets, split_ids=draw.split_ids)
    def delete_splits(self, which: str, split_ids: list[str]) -> None:
        uid, message = self.wire(which)
        request = pb.DeleteSplitsRequest(index_uid=message, split_ids=split_ids)
        self.agree("DeleteSplits", request, lambda: self.model.delete_splits(uid, split_ids))

    @rule(which=draw.targets, split_ids=draw.split_ids, opstamp=draw.opstamps)
    def update_splits_delete_opstamp(self, which: str, split_ids: list[str], opstamp: int) -> None:
        uid, message = self.wire(which)
        request = pb.UpdateSplitsDeleteOpstampRequest(
            index_uid=message, split_ids=split_ids, delete_opstamp=opstamp
        )
        self.agree(
            "UpdateSplitsDeleteOpstamp",
            request,
            lambda: self.model.update_opstamp(uid, split_ids, opstamp),
        )

    @rule(names=st.lists(draw.targets, min_size=1, max_size=2), query=draw.queries)
    def list_splits(self, names: list[str], query: Document) -> None:
        uids = [self.uid(which) for which in names]
        found = self.listed(index_uids=uids, **query)
        selected = [split for _, split in self.selected(uids, query)]
        self.same(by_key(found), by_key(map(split_view, selected)), f"ListSplits {query}")
        self.same(len(found), len(selected), f"ListSplits {query}")

    @rule(query=draw.queries, page=draw.pages, after=st.sampled_from([None, *draw.SPLIT_IDS]))
    def list_a_page_of_splits(self, query: Document, page: Document, after: str | None) -> None:
        uids = list({self.uid("a"), self.uid("b")})
        after_split = (self.uid("a"), after) if after else None
        found = self.listed(
            index_uids=uids, sort_by="IndexUid", after_split=after_split, **query, **page
        )
        keys = sorted(key for key, _ in self.selected(uids, query))
        keys = [key for key in keys if after_split is None or key > after_split]
        first = page.get("offset") or 0
        last = None if page["limit"] is None else first + page["limit"]
        actual = [(split["index_uid"], split["split_id"]) for split in found]
        self.same(actual, keys[first:last], f"ListSplits {query} {page} {after}")

    @rule(which=draw.targets, opstamp=draw.opstamps, limit=st.integers(0, 4))
    def list_stale_splits(self, which: str, opstamp: int, limit: int) -> None:
        uid, message = self.wire(which)
        request = pb.ListStaleSplitsRequest(
            index_uid=message, delete_opstamp=opstamp, num_splits=limit
        )
        answer = self.ask("ListStaleSplits", request)
        found = [split["split_id"] for split in json.loads(answer.splits_serialized_json)]
        stale = {
            key[1]: (split.document["delete_opstamp"], split.publish)
            for key, split in self.selected([uid], {"split_states": ["Published"]})
            if split.document["delete_opstamp"] < opstamp
            and draw.matures_at(split.document) < time.time()
        }
        # Splits of one publish have no order among them.
        self.same([stale.get(key) for key in found], sorted(stale.values())[:limit], "stale")
        self.same(len(set(found)), len(found), "stale")

    # Shards

    @rule(
        which=draw.targets,
        source_id=st.sampled_from(draw.SOURCE_IDS),
        shard_id=st.sampled_from(draw.SHARD_IDS),
        token=st.sampled_from([None, *draw.TOKENS]),
    )
    def open_shard(self, which: str, source_id: str, shard_id: str, token: str | None) -> None:
        uid, message = self.wire(which)
        subrequest = pb.OpenShardSubrequest(
            index_uid=message,
            source_id=source_id,
            shard_id=ingest_pb2.ShardId(shard_id=shard_id.encode()),
            ingester_id="ingester-1",
            doc_mapping_uid=DOC_MAPPING_UID,
            publish_token=token,
        )
        agreed = self.agree(
            "OpenShards",
            pb.OpenShardsRequest(subrequests=[subrequest]),
            lambda: self.model.open_shard(uid, source_id, shard_id, token),
        )
        if agreed is not None:
            self.same(shard_view(agreed[0].subresponses[0].open_shard), agreed[1], "OpenShards")

    @rule(
        which=draw.targets,
        source_id=st.sampled_from(draw.SOURCE_IDS),
        wanted=st.lists(st.sampled_from(draw.SHARD_IDS), max_size=2),
        token=st.sampled_from(draw.TOKENS),
    )
    def acquire_shards(self, which: str, source_id: str, wanted: list[str], token: str) -> None:
        uid, message = self.wire(which)
        request = pb.AcquireShardsRequest(
            index_uid=message,
            source_id=source_id,
            shard_ids=shard_ids(*wanted),
            publish_token=token,
        )
        agreed = self.agree(
            "AcquireShards", request, lambda: self.model.acquire(uid, source_id, wanted, token)
        )
        if agreed is not None:
            acquired = {
                shard.shard_id.shard_id.decode(): shard_view(shard)
                for shard in agreed[0].acquired_shards
            }
            self.same(acquired, agreed[1], "AcquireShards")

    # Delete tasks

    @rule(which=draw.targets, start=st.none() | st.integers(-5, 5))
    def create_delete_task(self, which: str, start: int | None) -> None:
        uid, message = self.wire(which)
        query = pb.DeleteQuery(index_uid=message, start_timestamp=start, query_ast='{"type":"x"}')
        agreed = self.agree("CreateDeleteTask", query, lambda: self.model.check_task(uid))
        if agreed is not None:
            self.same(agreed[0].delete_query, query, "CreateDeleteTask")
            self.same(agreed[0].opstamp > self.model.last_opstamp, True, "opstamps rise")
            self.model.task_created(uid, agreed[0].opstamp, query)

    @rule(which=draw.targets, back=st.integers(0, 3))
    def list_delete_tasks(self, which: str, back: int) -> None:
        uid, message = self.wire(which)
        after = max(0, self.model.last_opstamp - back)
        request = pb.ListDeleteTasksRequest(index_uid=message, opstamp_start=after)
        tasks = self.ask("ListDeleteTasks", request).delete_tasks
        found = {task.opstamp: task.delete_query for task in tasks}
        self.same(found, self.model.tasks(uid, after), "ListDeleteTasks")
        self.same(len(found), len(tasks), "ListDeleteTasks")
        last = self.ask("LastDeleteOpstamp", pb.LastDeleteOpstampRequest(index_uid=message))
        self.same(last.last_delete_opstamp, max(self.model.tasks(uid), default=0), "last opstamp")


async def test_node_and_model_agree(migrated_database: Scratch) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    loop = asyncio.get_running_loop()
    async with running(config) as node, grpc.aio.insecure_channel(address(node)) as channel:
        driver = Driver(channel, loop)

        class OnThisNode(MetastoreMachine):
            def __init__(self) -> None:
                super().__init__(driver)

        await asyncio.to_thread(run_state_machine_as_test, OnThisNode, settings=SETTINGS)
    if EXAMPLES is None:
        assert driver.outcomes.keys() >= draw.OUTCOMES
