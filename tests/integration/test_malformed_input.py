"""Malformed input in every field of every request: a clear error, and no table changes.

The fields come from the protobuf descriptors, so that a new one cannot be forgotten. Each case is
a valid request on a database with a row of every kind, with one field malformed. What is accepted
nevertheless is listed in `tests/support/accepted_input.py`; everything else must be refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace

import asyncpg
import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy import errors
from proxy.client.wire import read_failure
from proxy.demo.postgres import PostgresPair
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.server.decoding import decode
from proxy.store.metastore import PostgresMetastore
from tests.support.accepted_input import is_accepted, uncertain_variant
from tests.support.complete_requests import REQUESTS, World, make_world
from tests.support.malformed import Case, cases, is_json, long_lists, oversized, treatment
from tests.support.nodes import address, node_config, running
from tests.support.postgres import opened, scratch_database
from tests.support.table_images import TableImages
from tests.support.wire_bytes import paths

METHODS = pb.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name
NAMES = list(METHODS)
WITH_FIELDS = [name for name in NAMES if METHODS[name].input_type.fields]
WITH_LISTS = [
    name for name in NAMES if any(path[-1].is_repeated for path in paths(METHODS[name].input_type))
]
TEXT_TYPES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
WITH_TEXTS = [
    name
    for name in NAMES
    if any(path[-1].type in TEXT_TYPES for path in paths(METHODS[name].input_type))
]
MAX_MESSAGE_SIZE = 20 * 1024 * 1024
SMALL_MESSAGE_SIZE = 1_000_000
MAX_ERROR_BYTES = 4096
# The longest that a list of 100,000 elements may keep a caller waiting, on a slow machine.
SANE_SECONDS = 30.0

CLEAR = (
    errors.InvalidArgument,
    errors.JsonDeserializeError,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.InvalidPublishToken,
)
# These name the entity that the malformed field should have named.
BY_ENTITY = (
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.InvalidPublishToken,
)


@dataclass
class Arena:
    """A database with a row of every kind, and the ways to send bytes to it."""

    world: World
    images: TableImages
    channel: grpc.aio.Channel
    strict_channel: grpc.aio.Channel
    store: PostgresMetastore

    def request(self, rpc: str) -> Message:
        """Return the valid request of an RPC."""
        return REQUESTS[rpc](self.world)

    async def send(
        self, rpc: str, raw: bytes, channel: grpc.aio.Channel | None = None
    ) -> errors.MetastoreError | None:
        """Send a request over gRPC; return the node's error, or None."""
        channel = channel or self.channel
        path = RPCS[rpc].path
        try:
            if RPCS[rpc].is_streaming:
                async for _ in channel.unary_stream(path)(raw, timeout=60):
                    pass
            else:
                await channel.unary_unary(path)(raw, timeout=60)
        except grpc.aio.AioRpcError as error:
            failure = read_failure(error)
            if not failure.is_explicit:
                # The library's own error: nothing of ours has arrived.
                raise
            return failure.error
        return None

    async def call(self, rpc: str, request: Message) -> errors.MetastoreError | None:
        """Call the store; return its error, or None."""
        try:
            if RPCS[rpc].is_streaming:
                async for _ in self.store.stream(RPCS[rpc], request):
                    pass
            else:
                await self.store.unary(RPCS[rpc], request)
        except errors.MetastoreError as error:
            return error
        return None


@pytest.fixture(scope="module")
async def arena(pg: PostgresPair, migrated_template: str) -> AsyncIterator[Arena]:
    """The arena; a test leaves the tables as it found them."""
    async with scratch_database(pg, template=migrated_template) as scratch:
        uri = scratch.primary_uri
        # Nobody but the requests may write.
        config = node_config(Role.METASTORE, uri, heartbeat=False)
        config = replace(config, postgres=replace(config.postgres, skip_migrations=True))
        small = node_config(Role.METASTORE, uri, node_id="small", heartbeat=False)
        small = replace(
            small,
            postgres=config.postgres,
            grpc=replace(small.grpc, max_message_size=SMALL_MESSAGE_SIZE),
        )
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        sql = await asyncpg.connect(uri)
        try:
            async with (
                opened(uri) as database,
                running(config) as node,
                running(small) as strict_node,
                grpc.aio.insecure_channel(address(node), options=options) as channel,
                grpc.aio.insecure_channel(address(strict_node), options=options) as strict_channel,
            ):
                world = await make_world(database)
                yield Arena(
                    world,
                    await TableImages.make(sql),
                    channel,
                    strict_channel,
                    PostgresMetastore(database, max_message_size=MAX_MESSAGE_SIZE),
                )
        finally:
            await sql.close()


def test_every_field_of_every_request_has_a_treatment() -> None:
    forgotten = {
        path[-1].full_name
        for name in NAMES
        for path in paths(METHODS[name].input_type)
        if treatment(path[-1]) is None
    }

    assert not forgotten, f"say in `TREATMENTS` how to malform {sorted(forgotten)}"


def test_every_json_field_is_treated_as_json() -> None:
    fields = [path[-1] for name in NAMES for path in paths(METHODS[name].input_type)]

    assert {field.name for field in fields if "json" in field.name} == {
        field.name for field in fields if is_json(field)
    }


async def test_every_table_has_rows(arena: Arena) -> None:
    assert [name for name, image in (await arena.images.image()).items() if not image] == []


@pytest.mark.parametrize("rpc", NAMES)
async def test_the_valid_request_sets_every_field_and_succeeds(rpc: str, arena: Arena) -> None:
    request = arena.request(rpc)

    assert unset(request) == []
    assert await arena.send(rpc, request.SerializeToString()) is None
    await arena.images.restore()


def unset(message: Message, path: str = "") -> list[str]:
    """Return the fields that a request leaves unset, those of nested messages included."""
    found = {field.name: value for field, value in message.ListFields()}
    missing = [f"{path}{name}" for name in message.DESCRIPTOR.fields_by_name if name not in found]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                missing += unset(item, f"{path}{field.name}.")
    return missing


@pytest.mark.parametrize("rpc", WITH_FIELDS)
async def test_malformed_input_over_grpc(rpc: str, arena: Arena) -> None:
    problems = Problems(arena, await arena.images.image())
    for case in cases(rpc, arena.request(rpc)):
        await problems.check(case, await arena.send(rpc, case.raw))

    assert problems.found == []


@pytest.mark.parametrize("rpc", WITH_FIELDS)
async def test_malformed_input_at_the_store(rpc: str, arena: Arena) -> None:
    problems = Problems(arena, await arena.images.image())
    message_class = GetMessageClass(METHODS[rpc].input_type)
    for case in cases(rpc, arena.request(rpc)):
        # The documents have gone through the same code by the other way.
        if case.key:
            continue
        try:
            request = decode(message_class, case.raw)
        except errors.InvalidArgument:
            # No such message reaches the store.
            continue
        await problems.check(case, await arena.call(rpc, request))

    assert problems.found == []


@pytest.mark.parametrize("rpc", WITH_LISTS)
async def test_a_list_of_100_000_elements_is_answered_or_refused(rpc: str, arena: Arena) -> None:
    for case in long_lists(rpc, arena.request(rpc)):
        before = await arena.images.image()
        started = time.monotonic()

        error = await arena.send(rpc, case.raw)

        assert time.monotonic() - started < SANE_SECONDS, case
        if error is None:
            await arena.images.restore()
            continue
        assert problem_of(case, error) is None
        assert await arena.images.image() == before


@pytest.mark.parametrize("rpc", WITH_TEXTS)
async def test_an_oversized_request_is_refused(rpc: str, arena: Arena) -> None:
    before = await arena.images.image()
    for case in oversized(rpc, arena.request(rpc), SMALL_MESSAGE_SIZE):
        error = await arena.send(rpc, case.raw, arena.strict_channel)

        assert isinstance(error, errors.InvalidArgument), case
        assert error.message == (
            f"the request has {len(case.raw)} bytes, more than `grpc.max_message_size` "
            f"({SMALL_MESSAGE_SIZE}) allows"
        )
    assert await arena.images.image() == before


class Problems:
    """What was not as it should be, case by case, so that one run shows all of it."""

    def __init__(self, arena: Arena, before: dict[str, str]) -> None:
        self._arena = arena
        self._before = before
        self.found: list[str] = []

    async def check(self, case: Case, error: errors.MetastoreError | None) -> None:
        """Look at the outcome of a case and at the tables; put the tables back."""
        problem = problem_of(case, error)
        after = await self._arena.images.image()
        if after != self._before:
            if error is not None:
                tables = [name for name, image in after.items() if image != self._before[name]]
                problem = f"refused, but changed {', '.join(tables)}"
            await self._arena.images.restore()
            self._before = await self._arena.images.image()
        if problem is not None:
            self.found.append(f"{case}: {problem}")


def problem_of(case: Case, error: errors.MetastoreError | None) -> str | None:
    """Return what is wrong with the outcome of a case, or None."""
    if error is None:
        return None if is_accepted(case) else "accepted, but it is not listed as accepted"
    text = f"{type(error).__name__}: {error}"
    if is_accepted(case):
        return f"listed as accepted, but refused with {text[:200]}"
    variant = uncertain_variant(case)
    if variant is not None:
        return None if error.variant == variant else f"expected {variant}, got {text[:200]}"
    if not isinstance(error, CLEAR) or not error.is_certainly_aborted:
        return f"not a clear error: {text[:200]}"
    if max(len(str(error).encode()), len(error.to_json())) > MAX_ERROR_BYTES:
        return f"an error of {len(str(error).encode())} and {len(error.to_json())} bytes"
    if "Traceback" in text or ".py" in text:
        return f"shows the source: {text[:200]}"
    return None if names_the_field(case, error) else f"does not name the field: {text[:200]}"


def names_the_field(case: Case, error: errors.MetastoreError) -> bool:
    """Whether an error says where the request is wrong."""
    if isinstance(error, BY_ENTITY):
        return True
    if isinstance(error, errors.JsonDeserializeError):
        return bool(error.struct_name)
    message = str(error)
    field = case.field.rpartition(".")[2]
    # The last three: by another name, or with all fields together.
    known: Iterable[str] = (
        case.key or field,
        field,
        "doc mapping",
        "template ID",
        "grpc.max_message_size",
    )
    return any(name in message for name in known)
