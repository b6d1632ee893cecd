"""Index templates: which one an index ID gets."""

from __future__ import annotations

import pytest

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_templates import create, delete, find, template


async def test_a_match_carries_the_template(metastore: Metastore) -> None:
    await create(metastore, template())

    response = await metastore.call(
        "FindIndexTemplateMatches", pb.FindIndexTemplateMatchesRequest(index_ids=["logs-1"])
    )

    assert list(response.matches) == [
        pb.IndexTemplateMatch(index_id="logs-1", template_id="logs", index_template_json=template())
    ]


@pytest.mark.parametrize(
    ("patterns", "index_id", "is_match"),
    [
        (["logs-*"], "logs-1", True),
        (["logs-*"], "logs-", True),
        (["logs-*"], "my-logs-1", False),
        (["*logs*"], "my-logs-1", True),
        (["*"], "anything", True),
        (["logs"], "logs", True),
        (["logs"], "logs-1", False),
        (["logs"], "LOGS", False),
        (["lo.s"], "loxs", False),
        pytest.param(["logs_1"], "logs-1", True, id="underscore is a wildcard"),
        pytest.param(["logs_*"], "logsXY", True, id="underscore before a star"),
        (["metrics-*", "logs-*"], "logs-1", True),
        (["logs-*", "-logs-1*"], "logs-12", False),
        (["logs-*", "-logs-1*"], "logs-2", True),
        (["-logs-1*", "logs-*"], "logs-12", False),
        (["logs-*", "-logs_12"], "logs-12", False),
        pytest.param(
            ["logs-*", "-logs-1*", "-*2"], "logs-1", True, id="excluded by one negative of two"
        ),
        pytest.param(
            ["logs-*", "-logs-1*", "-*2"], "logs-12", False, id="excluded by all negatives"
        ),
        pytest.param(["-logs-*"], "metrics", False, id="negatives alone match nothing"),
    ],
)
async def test_which_index_ids_a_template_matches(
    metastore: Metastore, patterns: list[str], index_id: str, is_match: bool
) -> None:
    await create(metastore, template("logs", *patterns))

    assert await find(metastore, index_id) == ({index_id: "logs"} if is_match else {})


async def test_the_highest_priority_wins(metastore: Metastore) -> None:
    await create(metastore, template("aaa", "logs-*", priority=1))
    await create(metastore, template("bbb", "logs-*", priority=2**31 - 1))
    await create(metastore, template("ccc", "logs-*", priority=0))

    assert await find(metastore, "logs-1") == {"logs-1": "bbb"}


async def test_of_equal_priorities_the_first_id_wins(metastore: Metastore) -> None:
    for name in ("ccc", "aaa", "bbb"):
        await create(metastore, template(name, "logs-*", priority=5))

    assert await find(metastore, "logs-1") == {"logs-1": "aaa"}


async def test_each_index_id_gets_its_own_best_match(metastore: Metastore) -> None:
    await create(metastore, template("all", "*"))
    await create(metastore, template("logs", "logs-*", "-logs-old*", priority=10))

    matches = await find(metastore, "logs-1", "logs-old", "metrics", "logs-1")

    assert matches == {"logs-1": "logs", "logs-old": "all", "metrics": "all"}


async def test_index_ids_without_a_match_are_left_out(metastore: Metastore) -> None:
    await create(metastore, template())

    assert await find(metastore, "metrics", "logs-1") == {"logs-1": "logs"}


async def test_finding_for_no_index_id_answers_nothing(metastore: Metastore) -> None:
    await create(metastore, template())

    assert await find(metastore) == {}


async def test_a_deleted_template_matches_no_more(metastore: Metastore) -> None:
    await create(metastore, template())
    await delete(metastore, "logs")

    assert await find(metastore, "logs-1") == {}
