"""Delete tasks: CreateDeleteTask, ListDeleteTasks, LastDeleteOpstamp."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, uid_text, unknown_index

AST = '{"type":"term","field":"tenant","value":"é$1"}'


async def create(metastore: Metastore, uid: common_pb2.IndexUid, ast: str = AST) -> pb.DeleteTask:
    task = await metastore.call("CreateDeleteTask", pb.DeleteQuery(index_uid=uid, query_ast=ast))
    assert isinstance(task, pb.DeleteTask)
    return task


async def listed(
    metastore: Metastore, uid: common_pb2.IndexUid, after: int = 0
) -> list[pb.DeleteTask]:
    request = pb.ListDeleteTasksRequest(index_uid=uid, opstamp_start=after)
    return list((await metastore.call("ListDeleteTasks", request)).delete_tasks)


async def last(metastore: Metastore, uid: common_pb2.IndexUid) -> int:
    request = pb.LastDeleteOpstampRequest(index_uid=uid)
    return int((await metastore.call("LastDeleteOpstamp", request)).last_delete_opstamp)


async def test_the_first_task_has_opstamp_1_and_echoes_its_query(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    query = pb.DeleteQuery(index_uid=uid, start_timestamp=-5, end_timestamp=0, query_ast=AST)

    task = await metastore.call("CreateDeleteTask", query)

    assert task.opstamp == 1
    assert task.delete_query == query


async def test_the_creation_time_is_the_database_clock_in_whole_seconds(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)
    before = await metastore.sql.fetchval("SELECT floor(extract(epoch FROM now()))::bigint")

    task = await create(metastore, uid)

    stored = await metastore.sql.fetchval(
        "SELECT floor(extract(epoch FROM create_timestamp))::bigint FROM delete_tasks"
    )
    assert task.create_timestamp == stored
    assert task.create_timestamp >= before


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, {}),
        ({"start_timestamp": 0}, {"start_timestamp": 0}),
        ({"end_timestamp": -1}, {"end_timestamp": -1}),
        (
            {"start_timestamp": -(2**63), "end_timestamp": 2**63 - 1},
            {"start_timestamp": -(2**63), "end_timestamp": 2**63 - 1},
        ),
    ],
)
async def test_the_stored_query_leaves_absent_timestamps_out(
    metastore: Metastore, bounds: dict[str, int], expected: dict[str, int]
) -> None:
    uid = await make_index(metastore)

    await metastore.call("CreateDeleteTask", pb.DeleteQuery(index_uid=uid, query_ast=AST, **bounds))

    text = await metastore.sql.fetchval("SELECT delete_query_json FROM delete_tasks")
    assert json.loads(text) == {
        "index_uid": await uid_text(metastore),
        "query_ast": AST,
        **expected,
    }
    (task,) = await listed(metastore, uid)
    assert task.delete_query == pb.DeleteQuery(index_uid=uid, query_ast=AST, **bounds)


async def test_repeating_a_creation_adds_another_task(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    first, second = await create(metastore, uid), await create(metastore, uid)

    assert second.opstamp > first.opstamp
    assert len(await listed(metastore, uid)) == 2


async def test_opstamps_are_one_sequence_over_all_indexes(metastore: Metastore) -> None:
    logs, metrics = await make_index(metastore), await make_index(metastore, "metrics")

    opstamps = [(await create(metastore, uid)).opstamp for uid in (logs, metrics, logs)]

    assert opstamps == [1, 2, 3]
    assert [task.opstamp for task in await listed(metastore, logs)] == [1, 3]
    assert [task.opstamp for task in await listed(metastore, metrics)] == [2]


async def test_a_refused_creation_leaves_a_gap_and_opstamps_go_on(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    with pytest.raises(errors.NotFound):
        await create(metastore, unknown_index("nowhere"))

    assert (await create(metastore, uid)).opstamp == 2


async def test_concurrent_creations_get_distinct_opstamps(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    tasks = await asyncio.gather(*(create(metastore, uid) for _ in range(8)))

    assert sorted(task.opstamp for task in tasks) == list(range(1, 9))


@pytest.mark.parametrize("index_id", ["nowhere", "web-logs"], ids=["unknown", "other incarnation"])
async def test_a_task_for_an_unknown_index_is_not_found(
    metastore: Metastore, index_id: str
) -> None:
    await make_index(metastore)

    with pytest.raises(errors.NotFound) as caught:
        await create(metastore, unknown_index(index_id))

    assert caught.value.entity == errors.index(index_id)
    assert await metastore.sql.fetchval("SELECT count(*) FROM delete_tasks") == 0


async def test_a_query_ast_is_not_inspected(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    task = await create(metastore, uid, ast="not json")

    assert task.delete_query.query_ast == "not json"


async def test_a_query_ast_with_a_nul_character_is_stored_escaped(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    await create(metastore, uid, ast="a\x00b")

    (task,) = await listed(metastore, uid)
    assert task.delete_query.query_ast == "a\x00b"


async def test_tasks_are_listed_after_the_opstamp_in_ascending_order(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    for _ in range(5):
        await create(metastore, uid)

    assert [task.opstamp for task in await listed(metastore, uid, after=2)] == [3, 4, 5]


@pytest.mark.parametrize("after", [3, 2**63 - 1])
async def test_nothing_is_listed_after_the_last_opstamp(metastore: Metastore, after: int) -> None:
    uid = await make_index(metastore)
    for _ in range(3):
        await create(metastore, uid)

    assert await listed(metastore, uid, after=after) == []


async def test_an_opstamp_that_the_database_cannot_hold_names_the_field(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)

    with pytest.raises(errors.InvalidArgument) as caught:
        await listed(metastore, uid, after=2**63)

    assert caught.value.message == (
        "field `opstamp_start` must be at most 9223372036854775807, got 9223372036854775808"
    )


async def test_an_unknown_index_has_no_tasks_and_opstamp_0(metastore: Metastore) -> None:
    assert await listed(metastore, unknown_index()) == []
    assert await last(metastore, unknown_index()) == 0


async def test_an_index_without_tasks_has_opstamp_0(metastore: Metastore) -> None:
    logs, metrics = await make_index(metastore), await make_index(metastore, "metrics")
    await create(metastore, logs)

    assert await last(metastore, metrics) == 0


async def test_the_last_opstamp_is_the_highest_of_the_index(metastore: Metastore) -> None:
    logs, metrics = await make_index(metastore), await make_index(metastore, "metrics")
    for uid in (logs, logs, metrics):
        await create(metastore, uid)

    assert await last(metastore, logs) == 2


async def test_deleting_the_index_deletes_its_tasks(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await create(metastore, uid)

    await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))

    assert await listed(metastore, uid) == []
    assert await last(metastore, uid) == 0


async def test_queries_written_with_the_old_names_are_read(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    text = await uid_text(metastore)
    await metastore.sql.execute(
        "INSERT INTO delete_tasks (index_uid, delete_query_json) VALUES ($1, $2)",
        text,
        json.dumps({"index_id": text, "query": AST, "start_timestamp": None}),
    )

    (task,) = await listed(metastore, uid)

    assert task.delete_query == pb.DeleteQuery(index_uid=uid, query_ast=AST)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("{}", "missing field `query_ast`"),
        ("[]", "invalid type: a list of 0 elements, expected an object"),
        ('{"query_ast":"x","query":"y"}', "duplicate field `query_ast`"),
        ('{"query_ast":1}', "field `query_ast` is an integer, expected a string"),
        (
            '{"query_ast":"x","end_timestamp":"now"}',
            "field `end_timestamp` is a string of 3 characters, expected an integer",
        ),
        (
            '{"query_ast":"x","index_uid":"web-logs"}',
            "'web-logs' is not an index UID (`<index_id>:<ULID>`)",
        ),
    ],
)
async def test_a_stored_query_that_cannot_be_read_fails_the_list(
    metastore: Metastore, stored: str, message: str
) -> None:
    uid = await make_index(metastore)
    await metastore.sql.execute(
        "INSERT INTO delete_tasks (index_uid, delete_query_json) VALUES ($1, $2)",
        await uid_text(metastore),
        stored,
    )

    with pytest.raises(errors.JsonDeserializeError) as caught:
        await listed(metastore, uid)

    assert (caught.value.struct_name, caught.value.message) == ("DeleteQuery", message)


@pytest.mark.parametrize(
    ("rpc", "request_class"),
    [
        ("CreateDeleteTask", pb.DeleteQuery),
        ("ListDeleteTasks", pb.ListDeleteTasksRequest),
        ("LastDeleteOpstamp", pb.LastDeleteOpstampRequest),
    ],
)
async def test_the_index_uid_is_required_and_checked(
    metastore: Metastore,
    rpc: str,
    request_class: type[pb.DeleteQuery | pb.ListDeleteTasksRequest | pb.LastDeleteOpstampRequest],
) -> None:
    with pytest.raises(errors.InvalidArgument) as missing:
        await metastore.call(rpc, request_class())
    short = common_pb2.IndexUid(index_id="web-logs", incarnation_id=b"short")
    with pytest.raises(errors.InvalidArgument) as malformed:
        await metastore.call(rpc, request_class(index_uid=short))

    assert missing.value.message == "field `index_uid` is required"
    assert malformed.value.message == "field `index_uid.incarnation_id` must be 16 bytes, got 5"
