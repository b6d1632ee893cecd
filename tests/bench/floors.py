"""What the same work costs without a metastore in between: bare asyncpg scripts."""

from __future__ import annotations

import time
from typing import Any

import asyncpg
import zstandard

from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import indexes, split_documents, splits
from proxy.store.queries import query
from proxy.store.requests import required_index_uid

_sessions: dict[str, asyncpg.Connection[asyncpg.Record]] = {}


async def _session(uri: str) -> asyncpg.Connection[asyncpg.Record]:
    if uri not in _sessions:
        _sessions[uri] = await asyncpg.connect(uri, server_settings={"TimeZone": "UTC"})
    return _sessions[uri]


async def cursor(uri: str, sql: str) -> dict[str, Any]:
    """Read all rows by a cursor, 1,000 at a time."""
    session = await _session(uri)
    started, count = time.perf_counter(), 0
    async with session.transaction():
        reading = await session.cursor(sql)
        while rows := await reading.fetch(1000):
            count += len(rows)
    return {"seconds": time.perf_counter() - started, "rows": count}


async def compress(uri: str) -> dict[str, Any]:
    """Fetch the metadata of all indexes, join and compress it, in one thread."""
    session = await _session(uri)
    started = time.perf_counter()
    rows = await session.fetch("SELECT index_metadata_json FROM indexes")
    text = f"[{','.join([row[0] for row in rows])}]".encode()
    stream = zstandard.ZstdCompressor(level=indexes.ZSTD_LEVEL).compressobj()
    size = len(stream.compress(text) + stream.flush())
    return {"seconds": time.perf_counter() - started, "bytes": size, "rows": len(rows)}


async def stage(uri: str, requests: list[str]) -> dict[str, Any]:
    """Send the statements of `StageSplits`, whose values were made before."""
    session = await _session(uri)
    seconds = []
    for raw in requests:
        request = pb.StageSplitsRequest.FromString(bytes.fromhex(raw))
        text = request.split_metadata_list_serialized_json
        columns = splits.columns(split_documents.parse_staged(text, now=0))
        uid = required_index_uid(request)
        began = time.perf_counter()
        async with session.transaction():
            await session.fetch(query("splits/stage"), uid, *columns)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


async def publish(uri: str, requests: list[str]) -> dict[str, Any]:
    """Send the statements of `PublishSplits`."""
    session = await _session(uri)
    seconds = []
    for raw in requests:
        request = pb.PublishSplitsRequest.FromString(bytes.fromhex(raw))
        uid = required_index_uid(request)
        ids = list(request.staged_split_ids)
        began = time.perf_counter()
        async with session.transaction():
            row = await session.fetchrow(query("indexes/lock"), request.index_uid.index_id)
            text = "" if row is None else row["index_metadata_json"]
            await session.fetchval(query("indexes/save"), uid, text)
            await session.fetchrow(query("splits/publish"), uid, ids, [])
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}
