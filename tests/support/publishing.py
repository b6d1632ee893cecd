"""What tests of PublishSplits share: sources, shards and positions."""

from __future__ import annotations

from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import common_pb2
from tests.support.access import Metastore
from tests.support.making import make_index, source_config

TOKEN = "01K33Z58DJRFAEBXG730MKMJTW"


def padded(number: int) -> str:
    return f"{number:020}"


async def with_source(metastore: Metastore, source_type: str = "void") -> common_pb2.IndexUid:
    return await make_index(metastore, "web-logs", source_config("source", source_type))


async def add_shard(
    metastore: Metastore,
    uid: common_pb2.IndexUid,
    shard_id: str,
    position: str = "",
    token: str | None = TOKEN,
    state: str = "open",
) -> None:
    await metastore.sql.execute(
        """
        INSERT INTO shards (index_uid, source_id, shard_id, leader_id, shard_state,
            publish_position_inclusive, publish_token, doc_mapping_uid)
        VALUES ($1, 'source', $2, 'ingester-1', $3::text::shard_state, $4, $5, $6)
        """,
        index_uid_text(uid),
        shard_id,
        state,
        position,
        token,
        "0" * 26,
    )


async def positions(metastore: Metastore) -> dict[str, tuple[str, str]]:
    rows = await metastore.sql.fetch("SELECT * FROM shards")
    return {
        row["shard_id"]: (row["publish_position_inclusive"], row["shard_state"]) for row in rows
    }
