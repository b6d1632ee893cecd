"""What a person is told of a choice."""

from __future__ import annotations

from random import Random

import pytest

from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Need
from proxy.routing.explanation import explain, summary
from proxy.routing.freshness import Freshness
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot
from proxy.routing.view import View

P, R = BackendRole.PRIMARY, BackendRole.REPLICA
SERVING, DOWN = BackendState.SERVING, BackendState.DOWN
READ, WRITE, OTHER = RPCS["ListSplits"], RPCS["CreateIndex"], RPCS["ListShards"]


def view(*, primary: BackendState = SERVING, has_room: bool = True) -> View:
    backends = [
        Backend("p", P, primary),
        Backend("down", R, DOWN),
        Backend("foreign", R, SERVING, facts=Facts(is_foreign=True)),
        Backend("fresh", R, SERVING),
        Backend("old", R, SERVING),
        Backend("open", R, SERVING, is_ejected=True),
        Backend("unknown", R, SERVING),
    ]
    freshness = {"fresh": Freshness(99.5, 50), "old": Freshness(70.0, 10)}
    return View(Snapshot.of(backends), {"old": Load(3)}, freshness, 100.0, has_room)


def reasons(need: Need, rpc=READ, **arguments) -> dict[str, str]:
    found = explain(rpc, view(**arguments), Random(1), need)
    return {v.backend.address: "" if v.is_eligible else v.reason for v in found.verdicts}


def test_every_backend_gets_a_verdict() -> None:
    assert reasons(Need(max_lag=1.0)) == {
        "p": "",
        "down": "it does not serve",
        "foreign": "it serves another cluster's database",
        "fresh": "",
        "old": "its lag of 30.000 s is over the bound of 1 s",
        "open": "its breaker is open",
        "unknown": "its lag is unknown",
    }


def test_positions_are_named() -> None:
    found = reasons(Need(min_lsn=0x1_0000_0000))
    assert found["old"] == "it has not replayed 1/0"
    assert found["unknown"] == "it cannot show its position in the WAL"
    # It keeps up: it may have it by now.
    assert found["fresh"] == ""


@pytest.mark.parametrize(
    ("rpc", "need", "text"),
    [
        (READ, Need(max_lag=1.0), "ListSplits goes to the replica fresh"),
        (READ, Need(max_lag=0.1), "ListSplits falls back to the primary p"),
        (READ, Need(primary_only=True), "its consistency asks for the primary"),
        (WRITE, Need(), "CreateIndex goes to the primary p: it writes"),
        (OTHER, Need(), "it is not stale-tolerant, and no leave was given"),
    ],
)
def test_the_decision_in_words(rpc, need: Need, text: str) -> None:
    assert text in explain(rpc, view(), Random(1), need).text


def test_stale_and_shed_are_told() -> None:
    stale = explain(READ, view(primary=DOWN), Random(1), Need(max_lag=0.1))
    assert "although it is over its bound" in stale.text
    shed = explain(READ, view(has_room=False), Random(1), Need(min_lsn=0xFFFF, max_lag=0.1))
    assert shed.choice is None
    assert "the primary takes no more" in shed.text


def test_a_summary_says_why_none_is_left() -> None:
    assert summary(READ, View(Snapshot(), {}, {}), Need()) == (
        "no backend is known for ListSplits: check the targets, and `metastore-proxy status`"
    )
    text = summary(WRITE, view(primary=DOWN), Need())
    assert "primary p: it does not serve" in text
    assert "replica old: the call goes to a primary" in text
