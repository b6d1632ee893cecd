"""ListSplits against a second source of truth: a filter in Python over a few hundred splits."""

from __future__ import annotations

import operator
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.identifiers import index_uid_text
from tests.support.access import Metastore
from tests.support.making import make_index
from tests.support.splitting import document, listed, stage

STATES = ["Staged", "Published", "MarkedForDeletion"]
NODES = ["node-1", "node-2", "node-3"]
TAGS = ["a", "b", "c", "d$", "e'"]
INDEXES = ["alpha", "beta", "gamma"]
SPLITS_PER_INDEX = 110


@dataclass(frozen=True)
class Row:
    """One split as the model sees it; times are in seconds."""

    index_uid: str
    split_id: str
    state: str
    node_id: str
    tags: frozenset[str]
    time_range: tuple[int, int] | None
    maturity: int
    created: float
    updated: float
    published: float | None
    opstamp: int

    @property
    def key(self) -> tuple[str, str]:
        return self.index_uid, self.split_id


def random_rows(index_uids: list[str]) -> list[Row]:
    """Return rows whose values collide often, so that every bound has ties on it."""
    dice = random.Random(11)
    rows = []
    for uid in index_uids:
        for number in dice.sample(range(1000), SPLITS_PER_INDEX):
            start = dice.randrange(20)
            state = dice.choice(STATES)
            rows.append(
                Row(
                    index_uid=uid,
                    split_id=f"split-{number:03}",
                    state=state,
                    node_id=dice.choice(NODES),
                    tags=frozenset(tag for tag in TAGS if dice.random() < 0.4),
                    time_range=None if dice.random() < 0.2 else (start, start + dice.randrange(5)),
                    maturity=0 if dice.random() < 0.4 else dice.randrange(1, 20),
                    created=dice.randrange(40) / 2,
                    updated=dice.randrange(40) / 2,
                    published=None if state == "Staged" else float(dice.randrange(20)),
                    opstamp=dice.randrange(10),
                )
            )
    return rows


@pytest.fixture
async def rows(metastore: Metastore) -> list[Row]:
    """The splits in the database, as rows of the model."""
    uids = [await make_index(metastore, index_id) for index_id in INDEXES]
    made = random_rows([index_uid_text(uid) for uid in uids])
    for uid in uids:
        documents = [
            document(
                uid,
                row.split_id,
                node_id=row.node_id,
                tags=sorted(row.tags),
                time_range=None
                if row.time_range is None
                else {"start": row.time_range[0], "end": row.time_range[1]},
                delete_opstamp=row.opstamp,
                create_timestamp=0,
                maturity={"type": "mature"}
                if row.maturity == 0
                else {"type": "immature", "maturation_period_millis": row.maturity * 1000},
            )
            for row in made
            if row.index_uid == index_uid_text(uid)
        ]
        await stage(metastore, uid, *documents)
    await metastore.sql.executemany(
        """
        UPDATE splits SET split_state = $3,
            create_timestamp = to_timestamp($4) AT TIME ZONE 'UTC',
            update_timestamp = to_timestamp($5) AT TIME ZONE 'UTC',
            publish_timestamp = to_timestamp($6) AT TIME ZONE 'UTC'
        WHERE index_uid = $1 AND split_id = $2
        """,
        [
            (row.index_uid, row.split_id, row.state, row.created, row.updated, row.published)
            for row in made
        ],
    )
    return made


def holds(bound: Any, value: float, side: str) -> bool:
    if bound == "Unbounded":
        return True
    ((kind, limit),) = bound.items()
    compare = {
        ("start", "Included"): operator.ge,
        ("start", "Excluded"): operator.gt,
        ("end", "Included"): operator.le,
        ("end", "Excluded"): operator.lt,
    }[side, kind]
    return bool(compare(value, limit))


def within(bounds: dict[str, Any], value: float) -> bool:
    return holds(bounds["start"], value, "start") and holds(bounds["end"], value, "end")


def tags_hold(ast: Any, tags: frozenset[str]) -> bool:
    if ast is None:
        return True
    ((kind, content),) = ast.items()
    if kind == "Tag":
        return (content["tag"] in tags) == content["is_present"]
    if not content:
        return True
    results = [tags_hold(child, tags) for child in content]
    return all(results) if kind == "And" else any(results)


def is_mature_enough(bound: Any, maturity: int) -> bool:
    if bound == "Unbounded":
        return True
    ((kind, (_, day, hour, minute, second, *_)),) = bound.items()
    at = (day - 1) * 86400 + hour * 3600 + minute * 60 + second
    return maturity <= at if kind == "Included" else maturity > at


def time_holds(query: dict[str, Any], row: Row) -> bool:
    if row.time_range is None:
        return query["max_time_range_end"] is None
    start, end = row.time_range
    if query["max_time_range_end"] is not None and end > query["max_time_range_end"]:
        return False
    wanted = query["time_range"]
    return holds(wanted["start"], end, "start") and holds(wanted["end"], start, "end")


def matches(query: dict[str, Any], row: Row) -> bool:
    included, excluded = query["included_split_ids"], query["excluded_split_ids"]
    return (
        (query["index_uids"] is None or row.index_uid in query["index_uids"])
        and (query["node_id"] is None or row.node_id == query["node_id"])
        and (not query["split_states"] or row.state in query["split_states"])
        and (not included or row.split_id in included)
        and row.split_id not in excluded
        and (query["after_split"] is None or row.key > tuple(query["after_split"]))
        and tags_hold(query["tags"], row.tags)
        and time_holds(query, row)
        and is_mature_enough(query["mature"], row.maturity)
        and within(query["update_timestamp"], row.updated)
        and within(query["create_timestamp"], row.created)
        and within(query["delete_opstamp"], row.opstamp)
    )


def order(query: dict[str, Any], row: Row) -> tuple[Any, ...]:
    keys: dict[str, tuple[Any, ...]] = {
        "None": (),
        # NULL comes last in ascending order.
        "Staleness": (row.opstamp, row.published is None, row.published or 0),
        "IndexUid": row.key,
        "MaturityTimestamp": (row.maturity, row.split_id),
    }
    suffix = () if query["offset"] is None else (row.split_id,)
    return keys[query["sort_by"]] + suffix


def bounds_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.just("Unbounded"),
        st.builds(lambda value: {"Included": value}, values),
        st.builds(lambda value: {"Excluded": value}, values),
    )


def ranges_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"start": bounds_of(values), "end": bounds_of(values)})


OPEN_RANGE = st.just({"start": "Unbounded", "end": "Unbounded"})
SMALL = st.integers(-1, 25)
IDS = st.lists(st.integers(0, 999).map(lambda number: f"split-{number:03}"), max_size=150)
TAG = st.builds(
    lambda tag, is_present: {"Tag": {"is_present": is_present, "tag": tag}},
    st.sampled_from([*TAGS, "unknown"]),
    st.booleans(),
)
TAG_FILTERS = st.recursive(
    TAG,
    lambda inner: st.builds(
        lambda kind, children: {kind: children},
        st.sampled_from(["And", "Or"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=8,
)
MOMENTS = st.builds(
    lambda second, nanosecond: [1970, 1, 0, 0, second, nanosecond, 0, 0, 0],
    st.integers(0, 25),
    st.sampled_from([0, 999_999_999]),
)


def often(default: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Leave a filter out half of the time, lest nothing ever matches."""
    return st.one_of(st.just(default), values)


QUERIES = st.fixed_dictionaries(
    {
        "index_uids": often(None, st.lists(st.sampled_from(INDEXES), max_size=3)),
        "node_id": often(None, st.sampled_from([*NODES, "node"])),
        "split_states": often([], st.lists(st.sampled_from(STATES), max_size=3)),
        "tags": often(None, TAG_FILTERS),
        "max_time_range_end": often(None, SMALL),
        "time_range": OPEN_RANGE | ranges_of(SMALL),
        "mature": often("Unbounded", bounds_of(MOMENTS)),
        "update_timestamp": OPEN_RANGE | ranges_of(SMALL),
        "create_timestamp": OPEN_RANGE | ranges_of(SMALL),
        "delete_opstamp": OPEN_RANGE | ranges_of(st.integers(0, 11)),
        "after_split": often(
            None,
            st.tuples(st.sampled_from(INDEXES), st.integers(0, 999)).map(
                lambda pair: [pair[0], f"split-{pair[1]:03}"]
            ),
        ),
        "included_split_ids": often([], IDS),
        "excluded_split_ids": often([], IDS),
        "sort_by": st.sampled_from(["None", "Staleness", "IndexUid", "MaturityTimestamp"]),
        "limit": often(None, st.integers(0, 200)),
        "offset": often(None, st.integers(0, 200)),
    }
)


@settings(
    max_examples=250,
    deadline=None,
    # The splits are only read, so that all examples may share them.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=QUERIES)
async def test_agrees_with_the_model(
    metastore: Metastore, rows: list[Row], drawn: dict[str, Any]
) -> None:
    uids = dict(zip(INDEXES, sorted({row.index_uid for row in rows}), strict=True))
    query = dict(drawn)
    if query["index_uids"] is not None:
        query["index_uids"] = [uids[name] for name in query["index_uids"]]
    if query["after_split"] is not None:
        query["after_split"] = [uids[query["after_split"][0]], query["after_split"][1]]

    answer = await listed(metastore, **query)

    by_key = {row.key: row for row in rows}
    found = [by_key[split["index_uid"], split["split_id"]] for split in answer]
    expected = [row for row in rows if matches(query, row)]
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    page = sorted(order(query, row) for row in expected)[query["offset"] or 0 :]
    if query["limit"] is not None:
        page = page[: query["limit"]]
    # Splits with equal keys may come in any order, and any of them may be cut off.
    assert [order(query, row) for row in found] == page
    assert [split["split_state"] for split in answer] == [row.state for row in found]
