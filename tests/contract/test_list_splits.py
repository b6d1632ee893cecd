"""ListSplits: chunks, order, rows of any age, and broken ones."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import make_index, unknown_index
from tests.support.split_queries import OPEN
from tests.support.splitting import (
    document,
    dumped,
    found,
    listed,
    listed_ids,
    publish,
    published,
    query,
    stage,
    states,
    unpacked,
)

QUERY = "quickwit_metastore::metastore::ListSplitsQuery"


def numbered(count: int) -> list[str]:
    return [f"split-{number:04}" for number in range(count)]


class TestChunks:
    @pytest.mark.parametrize(
        ("count", "sizes"),
        [
            (0, []),
            (1, [1]),
            (99, [99]),
            (100, [100]),
            (101, [100, 1]),
            (1000, [100] * 10),
            (1050, [100] * 10 + [50]),
        ],
    )
    async def test_a_message_holds_a_hundred_splits(
        self, metastore: Metastore, count: int, sizes: list[int]
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, *numbered(count))
        messages = await metastore.stream("ListSplits", query())
        assert [len(json.loads(item.splits_serialized_json)) for item in messages] == sizes
        ids = [split["split_id"] for split in unpacked(messages)]
        assert sorted(ids) == numbered(count)

    async def test_an_unknown_index_is_an_empty_stream(self, metastore: Metastore) -> None:
        uid = index_uid_text(unknown_index())
        assert await metastore.stream("ListSplits", query(index_uids=[uid])) == []

    @pytest.mark.parametrize("limit", [1000, 1001, 5000])
    async def test_a_large_limit(self, metastore: Metastore, limit: int) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, *numbered(1002))
        assert len(await found(metastore, limit=limit)) == min(limit, 1002)


class TestSplit:
    async def test_every_key_of_a_staged_split(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        metadata = document(
            uid,
            "split-1",
            partition_id=7,
            time_range={"start": 100, "end": 199},
            maturity={"type": "immature", "maturation_period_millis": 1500},
            tags=["a", "b"],
            delete_opstamp=3,
            num_merge_ops=2,
            doc_mapping_uid="01J5ZQ3V7Y8M4N6P2R9S0T1VWY",
        )
        await stage(metastore, uid, metadata)
        row = await metastore.sql.fetchrow(
            """
            SELECT floor(extract(epoch FROM create_timestamp))::bigint AS created,
                floor(extract(epoch FROM update_timestamp))::bigint AS updated
            FROM splits
            """
        )
        assert row is not None
        assert await listed(metastore) == [
            {
                "split_state": "Staged",
                "update_timestamp": row["updated"],
                "publish_timestamp": None,
                **metadata,
                "create_timestamp": row["created"],
            }
        ]

    async def test_times_are_floored(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await published(metastore, uid, "split-1")
        await metastore.sql.execute(
            """
            UPDATE splits SET create_timestamp = '1970-01-01 00:00:41.999999',
                update_timestamp = '1969-12-31 23:59:58.5',
                publish_timestamp = '2026-08-21 18:59:03.999999'
            """
        )
        (split,) = await listed(metastore)
        assert split["create_timestamp"] == 41
        assert split["update_timestamp"] == -2
        assert split["publish_timestamp"] == 1787338743

    @pytest.mark.parametrize(
        ("column", "state"), [("New", "Staged"), ("ScheduledForDeletion", "MarkedForDeletion")]
    )
    async def test_legacy_states(self, metastore: Metastore, column: str, state: str) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await metastore.sql.execute("UPDATE splits SET split_state = $1", column)
        (split,) = await listed(metastore)
        assert split["split_state"] == state

    @pytest.mark.parametrize("version", ["0.7", "0.8"])
    async def test_stored_documents_of_older_versions(
        self, metastore: Metastore, version: str
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        (expected,) = await listed(metastore)
        old = {
            "version": version,
            "index_id": "web-logs",
            **{
                key: value
                for key, value in document(uid, "split-1").items()
                if key not in ("version", "index_uid", "doc_mapping_uid", "time_range")
            },
            "unknown_key": {"index_uid": [1]},
        }
        await metastore.sql.execute("UPDATE splits SET split_metadata_json = $1", dumped(old))
        assert await listed(metastore) == [expected]
        text = json.dumps(old, indent=2)
        await metastore.sql.execute("UPDATE splits SET split_metadata_json = $1", text)
        assert await listed(metastore) == [expected]

    async def test_a_tag_that_looks_like_a_member(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        tag = '","index_uid":"x","create_timestamp":1,"delete_opstamp":2,"],"footer_offsets":{'
        await stage(metastore, uid, document(uid, "split-1", tags=[tag]))
        (split,) = await listed(metastore)
        assert split["tags"] == [tag]
        assert split["index_uid"] == index_uid_text(uid)

    async def test_an_unknown_state_ends_the_stream(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await metastore.sql.execute("UPDATE splits SET split_state = 'Lost'")
        with pytest.raises(errors.Internal) as caught:
            await listed(metastore)
        assert caught.value.message == "failed to convert `PgSplit` to `Split`"
        assert caught.value.cause == (
            "failed to deserialize `SplitState` from JSON: unknown split state `Lost`"
        )

    async def test_a_broken_document_ends_the_stream(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "split-1")
        await metastore.sql.execute(
            """UPDATE splits SET split_metadata_json = '{"footer_offsets":{"end":1}}'"""
        )
        with pytest.raises(errors.Internal) as caught:
            await listed(metastore)
        assert caught.value.message == "failed to convert `PgSplit` to `Split`"
        assert caught.value.cause == (
            "failed to deserialize `SplitMetadata` from JSON: missing field `version`"
        )

    async def test_a_database_error_ends_the_stream(self, metastore: Metastore) -> None:
        beyond = {**OPEN, "start": {"Included": 2**63 - 1}}
        with pytest.raises(errors.Internal) as caught:
            await listed(metastore, update_timestamp=beyond)
        assert caught.value.message == "failed to fetch splits"
        assert "timestamp out of range" in caught.value.cause

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", "null", '{"split_states":[]}', query().query_json[:-1]]
    )
    async def test_refuses_what_is_no_query(self, metastore: Metastore, text: str) -> None:
        with pytest.raises(errors.JsonDeserializeError) as caught:
            await metastore.stream("ListSplits", pb.ListSplitsRequest(query_json=text))
        assert caught.value.struct_name == QUERY

    async def test_a_nul_character_in_a_filter(self, metastore: Metastore) -> None:
        with pytest.raises(errors.InvalidArgument):
            await listed(metastore, node_id="a\0b")


class TestOrder:
    async def prepared(self, metastore: Metastore) -> list[str]:
        uids = []
        for name in ("zzz", "aaa"):
            uid = await make_index(metastore, name)
            uids.append(index_uid_text(uid))
            await published(metastore, uid, f"{name[0]}2", f"{name[0]}1", f"{name[0]}3")
        await metastore.sql.execute(
            """
            UPDATE splits SET
                delete_opstamp = CASE WHEN split_id LIKE '%1' THEN 9 ELSE 4 END,
                publish_timestamp = '2026-01-01'::timestamp
                    + CASE split_id WHEN 'z2' THEN 4 WHEN 'z3' THEN 3 WHEN 'a2' THEN 2
                        WHEN 'a3' THEN 1 WHEN 'a1' THEN 6 ELSE 5 END * interval '1 second',
                maturity_timestamp = CASE WHEN split_id LIKE '%2' THEN to_timestamp(0)
                    ELSE to_timestamp(50) END AT TIME ZONE 'UTC'
            """
        )
        return uids

    @pytest.mark.parametrize(
        ("sort_by", "expected"),
        [
            ("Staleness", ["a3", "a2", "z3", "z2", "z1", "a1"]),
            ("IndexUid", ["a1", "a2", "a3", "z1", "z2", "z3"]),
            ("MaturityTimestamp", ["a2", "z2", "a1", "a3", "z1", "z3"]),
        ],
    )
    async def test_sorts(self, metastore: Metastore, sort_by: str, expected: list[str]) -> None:
        await self.prepared(metastore)
        assert await listed_ids(metastore, sort_by=sort_by) == expected
        assert await listed_ids(metastore, sort_by=sort_by, limit=2) == expected[:2]
        page = await listed_ids(metastore, sort_by=sort_by, limit=2, offset=3)
        assert page == expected[3:5]

    async def test_an_offset_sorts_by_split(self, metastore: Metastore) -> None:
        await self.prepared(metastore)
        expected = ["a1", "a2", "a3", "z1", "z2", "z3"]
        assert await listed_ids(metastore, offset=0) == expected
        assert await listed_ids(metastore, offset=4) == ["z2", "z3"]
        assert await listed_ids(metastore, offset=6) == []
        assert await listed_ids(metastore, offset=2**64 - 1) == []

    @pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (6, 6), (2**64 - 1, 6)])
    async def test_limit(self, metastore: Metastore, limit: int, count: int) -> None:
        await self.prepared(metastore)
        assert len(await found(metastore, limit=limit)) == count

    async def test_pages_after_a_split(self, metastore: Metastore) -> None:
        uids = [index_uid_text(await make_index(metastore, f"index-{n}")) for n in range(3)]
        for number, text in enumerate(uids):
            index_id, _, _ = text.partition(":")
            row = await metastore.sql.fetchval(
                "SELECT index_uid FROM indexes WHERE index_id = $1", index_id
            )
            assert row == text
            await metastore.sql.execute(
                """
                INSERT INTO splits (index_uid, split_id, split_state, tags, node_id,
                    split_metadata_json)
                SELECT $1, id, 'Staged', '{}', 'n', replace($2, 'ID', id)
                FROM unnest($3::text[]) AS id
                """,
                text,
                dumped(document(common_pb2.IndexUid(index_id="x"), "ID")),
                numbered(40 + number),
            )
        seen: list[tuple[str, str]] = []
        after = None
        while True:
            page = await listed(metastore, sort_by="IndexUid", limit=17, after_split=after)
            seen += [(split["index_uid"], split["split_id"]) for split in page]
            if len(page) < 17:
                break
            after = seen[-1]
        expected = [
            (text, name) for number, text in enumerate(uids) for name in numbered(40 + number)
        ]
        assert seen == sorted(expected)

    async def test_after_split_is_exclusive_and_needs_no_such_split(
        self, metastore: Metastore
    ) -> None:
        (_, first) = await self.prepared(metastore)
        ids = await listed_ids(metastore, sort_by="IndexUid", after_split=[first, "a2"])
        assert ids == ["a3", "z1", "z2", "z3"]
        ids = await listed_ids(metastore, sort_by="IndexUid", after_split=[first, "a25"])
        assert ids == ["a3", "z1", "z2", "z3"]
        assert await found(metastore, index_uids=[first], after_split=[first, "a3"]) == set()


async def test_a_list_sees_one_snapshot_of_a_merge(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await published(metastore, uid, "old-1", "old-2")
    await stage(metastore, uid, "merged")
    assert await found(metastore, split_states=["Published"]) == {"old-1", "old-2"}
    await publish(metastore, uid, "merged", replaced=["old-1", "old-2"])
    assert await found(metastore, split_states=["Published"]) == {"merged"}
    assert len(await states(metastore)) == 3
