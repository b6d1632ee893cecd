"""Calls with much in them: all index metadata at once, and writes of 1,000 splits."""

from __future__ import annotations

import json
import random

from proxy.identifiers import index_uid_message
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.bench import corpus
from tests.bench.results import Report
from tests.bench.stage import Stage, interleaved

SPLITS = 1_000
# Writes go to indexes of their own, so that the lists stay as long as they are.
FIRST_INDEX = 950


async def measure_metadata(stage: Stage, report: Report, rounds: int) -> None:
    """Measure `ListIndexesMetadata` of 10,000 indexes."""
    request = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString().hex()
    bare, node = await interleaved(
        rounds,
        lambda: stage.caller("floor_compress", uri=stage.uri),
        lambda: stage.caller(
            "write", target=stage.primary.address, rpc="ListIndexesMetadata", requests=[request]
        ),
    )
    report.ratio(
        "4",
        f"ListIndexesMetadata of {bare[0]['rows']:,} / fetch, join and zstd",
        [one["seconds"][0] for one in node],
        [one["seconds"] for one in bare],
        bound=1.5,
    )


def write_requests(calls: int, index: int, first: int) -> tuple[list[str], list[str]]:
    """Return requests that stage 1,000 splits each, numbered from `first`, and publish them."""
    rng = random.Random(first)
    uid = corpus.index_uid(index)
    staged, published = [], []
    for number in range(first, first + calls * SPLITS, SPLITS):
        documents = [corpus.split(uid, number + one, rng) for one in range(SPLITS)]
        stage_request = pb.StageSplitsRequest(
            index_uid=index_uid_message(uid),
            split_metadata_list_serialized_json=json.dumps(documents, separators=(",", ":")),
        )
        publish_request = pb.PublishSplitsRequest(
            index_uid=index_uid_message(uid),
            staged_split_ids=[one["split_id"] for one in documents],
        )
        staged.append(stage_request.SerializeToString().hex())
        published.append(publish_request.SerializeToString().hex())
    return staged, published


async def measure_writes(stage: Stage, report: Report, rounds: int) -> None:
    """Measure StageSplits and PublishSplits against the bare statements."""
    staged, published = zip(
        *(
            write_requests(rounds + 1, FIRST_INDEX + way, 20_000_000 + way * 10_000_000)
            for way in range(2)
        ),
        strict=True,
    )
    for rpc, floor, requests in (
        ("StageSplits", "floor_stage", staged),
        ("PublishSplits", "floor_publish", published),
    ):
        left = [iter(requests[0]), iter(requests[1])]
        bare, node = await interleaved(
            rounds,
            lambda floor=floor, left=left: stage.caller(
                floor, uri=stage.uri, requests=[next(left[0])]
            ),
            lambda rpc=rpc, left=left: stage.caller(
                "write", target=stage.primary.address, rpc=rpc, requests=[next(left[1])]
            ),
        )
        report.ratio(
            "5",
            f"{rpc} of {SPLITS:,} / the bare statements",
            [one["seconds"][0] for one in node],
            [one["seconds"][0] for one in bare],
            bound=1.5,
        )
