"""Publishers that load several nodes at once and keep account of every answer they get."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from proxy import errors
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.identifiers import new_ulid
from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.remote_access import GrpcWay
from tests.support.splitting import deltas, document, dumped

# Seconds that the longest load runs; shorten it for a quick look.
LOAD_SECONDS = float(os.environ.get("METASTORE_PROXY_TEST_LOAD_SECONDS", "30"))

SOURCE = "source"
CONTESTED = "contested"

# A node that was killed is called again as soon as it listens.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


@asynccontextmanager
async def node_processes(uri: str, count: int = 2) -> AsyncIterator[list[NodeProcess]]:
    """Run metastore nodes on one database, each a process of its own."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-load-"))
    watchdog = Watchdog(directory)
    nodes = [
        NodeProcess(
            f"metastore-{number}",
            Role.METASTORE,
            directory,
            {"QW_METASTORE_URI": uri},
            watchdog=watchdog,
        )
        for number in range(count)
    ]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            await node.wait_ready()
        yield nodes
    finally:
        for node in nodes:
            await node.terminate()
        watchdog.close()


@asynccontextmanager
async def ways_to(nodes: Iterable[NodeProcess]) -> AsyncIterator[list[GrpcWay]]:
    """Open one channel to each node."""
    async with AsyncExitStack() as stack:
        channels = [
            grpc.aio.insecure_channel(node.address, options=_CHANNEL_OPTIONS) for node in nodes
        ]
        for channel in channels:
            await stack.enter_async_context(channel)
        yield [GrpcWay(channel) for channel in channels]


def offset(number: int) -> str:
    """Return the position after `number` documents, as a Kafka source writes it."""
    return f"{number:020}" if number else ""


def number_of(position: str) -> int:
    """Return how many documents a position stands for."""
    return int(position or "0")


@dataclass(frozen=True)
class Attempt:
    """One publish: its splits, and the interval that its delta adds to a partition."""

    split_ids: tuple[str, ...]
    partition: str
    start: int
    end: int
    token: str | None = None


@dataclass
class Account:
    """What became of every publish. `unexpected` holds the errors that nobody may see."""

    acknowledged: list[Attempt] = field(default_factory=list)
    refused: list[Attempt] = field(default_factory=list)
    unknown: list[Attempt] = field(default_factory=list)
    not_published: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)
    served: Counter[int] = field(default_factory=Counter)

    def split_ids(self, attempts: Iterable[Attempt]) -> list[str]:
        """Return the splits of attempts."""
        return [split_id for attempt in attempts for split_id in attempt.split_ids]


class Publisher:
    """One indexer: stages splits and publishes them with a delta, on any of the nodes.

    `expected` tells the refusals that may happen; any other error lands in
    `account.unexpected`, unless its outcome is unknown and `may_lose` says that nodes die.
    """

    def __init__(
        self,
        number: int,
        ways: Sequence[GrpcWay],
        uid: common_pb2.IndexUid,
        account: Account,
        *,
        source_id: str,
        expected: Callable[[errors.MetastoreError], bool],
        may_lose: bool = False,
    ) -> None:
        self.account = account
        self.random = random.Random(number)
        self._ways = ways
        self._uid = uid
        self._source_id = source_id
        self._expected = expected
        self._may_lose = may_lose

    async def call(self, rpc_name: str, request: Message) -> Any:
        """Call a node chosen at random. Returns None on an error that was accounted for."""
        number = self.random.randrange(len(self._ways))
        try:
            answer = await self._ways[number].call(rpc_name, request)
        except errors.MetastoreError as error:
            await self._note(rpc_name, error)
            return None
        self.account.served[number] += 1
        return answer

    async def _note(self, rpc_name: str, error: errors.MetastoreError) -> None:
        if error.is_certainly_aborted or not self._may_lose:
            self.account.unexpected.append(f"{rpc_name}: {error.to_json().decode()}")
        # A node that is gone answers at once; the load is for the other one.
        await asyncio.sleep(0.02)

    async def stage(self) -> tuple[str, ...] | None:
        """Stage one to three new splits; None if that failed or may have failed."""
        split_ids = tuple(new_ulid() for _ in range(self.random.randint(1, 3)))
        documents = [document(self._uid, split_id) for split_id in split_ids]
        request = pb.StageSplitsRequest(
            index_uid=self._uid, split_metadata_list_serialized_json=dumped(documents)
        )
        if await self.call("StageSplits", request) is None:
            self.account.not_published.update(split_ids)
            return None
        return split_ids

    def request(self, attempt: Attempt) -> pb.PublishSplitsRequest:
        """Return the request of an attempt."""
        interval = (offset(attempt.start), offset(attempt.end))
        return pb.PublishSplitsRequest(
            index_uid=self._uid,
            staged_split_ids=attempt.split_ids,
            index_checkpoint_delta_json_opt=deltas(self._source_id, {attempt.partition: interval}),
            publish_token_opt=attempt.token,
        )

    async def publish(self, attempt: Attempt) -> bool:
        """Publish, enter the outcome in the account, and return whether it was acknowledged."""
        number = self.random.randrange(len(self._ways))
        try:
            await self._ways[number].call("PublishSplits", self.request(attempt))
        except errors.MetastoreError as error:
            if self._expected(error):
                self.account.refused.append(attempt)
                return False
            if not error.is_certainly_aborted:
                self.account.unknown.append(attempt)
            await self._note("PublishSplits", error)
            return False
        self.account.served[number] += 1
        self.account.acknowledged.append(attempt)
        return True

    async def replay(self, attempt: Attempt) -> None:
        """Send an acknowledged publish again: it must be refused as any other conflict."""
        try:
            await self._ways[self.random.randrange(len(self._ways))].call(
                "PublishSplits", self.request(attempt)
            )
        except errors.MetastoreError as error:
            if not self._expected(error):
                await self._note("PublishSplits (replay)", error)
        else:
            self.account.unexpected.append(f"a replay was accepted: {attempt}")


def is_conflict(error: errors.MetastoreError) -> bool:
    """Whether an error says that the delta does not follow the checkpoint."""
    return (
        isinstance(error, errors.FailedPrecondition)
        and error.entity == errors.checkpoint_delta("web-logs", SOURCE)
        and "incompatible checkpoint delta" in error.message
    )


def is_stolen(error: errors.MetastoreError) -> bool:
    """Whether an error says that somebody else holds the shard."""
    return isinstance(error, errors.InvalidPublishToken)


class PartitionPublisher(Publisher):
    """Publishes to one partition: its own, or one that others race for."""

    def __init__(self, number: int, *arguments: Any, **options: Any) -> None:
        super().__init__(number, *arguments, source_id=SOURCE, expected=is_conflict, **options)
        self.is_racer = number % 2 == 1
        self.partition = CONTESTED if self.is_racer else offset(number + 1)
        self._position: int | None = None if self.is_racer else 0

    async def step(self) -> None:
        start = self._position if self._position is not None else await self._read_position()
        split_ids = await self.stage()
        if start is None or split_ids is None:
            self.account.not_published.update(split_ids or ())
            return
        attempt = Attempt(split_ids, self.partition, start, start + self.random.randint(1, 9))
        is_done = await self.publish(attempt)
        self._position = attempt.end if is_done and not self.is_racer else None
        if is_done and self.random.random() < 0.2:
            await self.replay(attempt)

    async def _read_position(self) -> int | None:
        """Read the checkpoint, as an indexer does that starts anew."""
        answer = await self.call("IndexMetadata", pb.IndexMetadataRequest(index_id="web-logs"))
        if answer is None:
            return None
        checkpoint = json.loads(answer.index_metadata_serialized_json)["checkpoint"]
        return number_of(checkpoint.get(SOURCE, {}).get(self.partition, ""))


class ShardPublisher(Publisher):
    """Takes a shard from whoever holds it, and publishes until somebody takes it away."""

    def __init__(self, number: int, *arguments: Any, **options: Any) -> None:
        super().__init__(number, *arguments, source_id=SOURCE, expected=is_stolen, **options)
        self.shard_id = f"shard-{number % 2}"
        self._uid_of_index = arguments[1]

    async def step(self) -> None:
        token = new_ulid()
        request = pb.AcquireShardsRequest(
            index_uid=self._uid_of_index,
            source_id=SOURCE,
            shard_ids=[ingest_pb2.ShardId(shard_id=self.shard_id.encode())],
            publish_token=token,
        )
        answer = await self.call("AcquireShards", request)
        if answer is None or not answer.acquired_shards:
            return
        (shard,) = answer.acquired_shards
        assert shard.publish_token == token
        start = number_of(shard.publish_position_inclusive.position.decode())
        for _ in range(self.random.randint(1, 12)):
            split_ids = await self.stage()
            if split_ids is None:
                return
            attempt = Attempt(split_ids, self.shard_id, start, start + 1, token)
            if not await self.publish(attempt):
                return
            start = attempt.end


async def run_all(seconds: float, steps: Iterable[Callable[[], Any]]) -> None:
    """Repeat all steps at once for a time; the first that raises ends the others."""
    deadline = time.monotonic() + seconds

    async def repeat(step: Callable[[], Any]) -> None:
        while time.monotonic() < deadline:
            await step()

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(repeat(step))


def sums(attempts: Iterable[Attempt]) -> dict[str, int]:
    """Return where the intervals of each partition end.

    They must follow one another from the beginning, without a gap and without an overlap: then
    the end is their sum, and none was applied twice or only in part.
    """
    ends: dict[str, int] = {}
    for attempt in sorted(attempts, key=lambda attempt: (attempt.partition, attempt.start)):
        assert attempt.start == ends.get(attempt.partition, 0), attempt
        assert attempt.end > attempt.start
        ends[attempt.partition] = attempt.end
    return ends
