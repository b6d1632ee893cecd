"""What callers may ask of the age of what they read."""

from __future__ import annotations

import json
import time

import pytest

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.consistency import parse_lsn
from tests.support.ages import lag_is, paused
from tests.support.postgres import Scratch
from tests.support.replication import Told


class TestWishes:
    async def test_a_write_tells_a_position_that_a_replica_waits_for(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        for number in range(20):
            template = pb.CreateIndexTemplateRequest(
                index_template_json=json.dumps(
                    {
                        "version": "0.9",
                        "template_id": f"template-{number}",
                        "index_id_patterns": [f"index-{number}-*"],
                        "doc_mapping": {},
                    }
                )
            )
            written = await primary.call("CreateIndexTemplate", template, want_lsn="true")
            lsn = str(written["x-metastore-lsn"])
            read = pb.GetIndexTemplateRequest(template_id=f"template-{number}")
            answer = await replica.call("GetIndexTemplate", read, min_lsn=lsn, want_lsn="true")
            seen, needed = parse_lsn(str(answer["x-metastore-lsn"])), parse_lsn(lsn)
            assert seen is not None
            assert needed is not None
            assert seen >= needed

    async def test_no_position_is_told_unasked(self, primary: Told) -> None:
        assert "x-metastore-lsn" not in await primary.call("ListIndexTemplates")

    async def test_a_replica_refuses_soon_what_it_has_not_replayed(
        self, pg: PostgresPair, primary: Told, replica: Told, migrated_database: Scratch
    ) -> None:
        async with paused(pg):
            await migrated_database.execute("CREATE TABLE written_after_the_pause ()")
            answer = await primary.call("ListIndexTemplates", want_lsn="true")
            lsn = str(answer["x-metastore-lsn"])
            started = time.monotonic()
            with pytest.raises(errors.Unavailable, match="has not reached `x-metastore-min-lsn`"):
                await replica.call("ListIndexTemplates", min_lsn=lsn)
            assert time.monotonic() - started < 2
            await primary.call("ListIndexTemplates", min_lsn=lsn)
        await pg.wait_caught_up()
        await replica.call("ListIndexTemplates", min_lsn=lsn)

    async def test_a_replica_refuses_what_is_younger_than_it(
        self, pg: PostgresPair, primary: Told, replica: Told
    ) -> None:
        await lag_is(replica, lambda lag: lag < 1)
        await replica.call("ListIndexTemplates", max_lag="30")
        async with paused(pg):
            await lag_is(replica, lambda lag: lag > 1)
            with pytest.raises(errors.Unavailable, match="`x-metastore-max-lag` allows 1 s"):
                await replica.call("ListIndexTemplates", max_lag="1")
            await primary.call("ListIndexTemplates", max_lag="0")

    async def test_an_unknown_age_is_too_old(self, replica: Told) -> None:
        with pytest.raises(errors.Unavailable, match="of unknown age"):
            await replica.call("ListIndexTemplates", max_lag="1000000")
        await replica.call("ListIndexTemplates")

    async def test_a_replica_is_no_primary(self, primary: Told, replica: Told) -> None:
        with pytest.raises(errors.Unavailable, match="asks for the primary"):
            await replica.call("ListIndexTemplates", consistency="primary")
        await replica.call("ListIndexTemplates", consistency="eventual")
        await primary.call("ListIndexTemplates", consistency="primary")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_lag", "soon"),
            ("max_lag", "-1"),
            ("max_lag", "nan"),
            ("min_lsn", "12"),
            ("min_lsn", "0/123456789"),
            ("consistency", "strong"),
            ("allow_replica", "yes"),
            ("want_lsn", "1"),
        ],
    )
    async def test_a_wish_that_does_not_parse_is_named(
        self, primary: Told, name: str, value: str
    ) -> None:
        header = f"x-metastore-{name.replace('_', '-')}"
        with pytest.raises(errors.InvalidArgument, match=header):
            await primary.call("ListIndexTemplates", **{name: value})
