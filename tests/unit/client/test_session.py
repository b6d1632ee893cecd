"""Which metadata goes along, and what a client remembers."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.client.answers import Metadata, Served
from proxy.client.session import Session
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Consistency
from proxy.routing.members import Backend, BackendRole

READ, WRITE, OTHER = RPCS["ListSplits"], RPCS["CreateIndex"], RPCS["ListShards"]
PRIMARY, REPLICA = Backend("p", BackendRole.PRIMARY), Backend("r", BackendRole.REPLICA)


def served(lsn: str | None, route: str) -> Served:
    return Served("n", "role", route, None, "a", lsn, (), 0)


def sent(
    session: Session,
    metadata: Metadata = (),
    *,
    rpc=READ,
    to: Backend = REPLICA,
    consistency: Consistency | None = None,
    min_lsn: str | None = None,
) -> dict[str, object]:
    terms = session.terms(rpc, metadata, consistency, min_lsn)
    return {key.removeprefix("x-metastore-"): v for key, v in terms.metadata_for(rpc, to)}


def test_an_eventual_read_says_nothing() -> None:
    session = Session(Consistency.EVENTUAL, None)
    assert sent(session, [("traceparent", "1")]) == {"traceparent": "1"}
    assert sent(session, to=PRIMARY) == {}


def test_every_write_asks_for_its_position() -> None:
    session = Session(Consistency.EVENTUAL, 5.0)
    assert sent(session, rpc=WRITE, to=PRIMARY) == {"want-lsn": "true"}


def test_a_bound_is_told_to_primaries_only_and_the_tightest_counts() -> None:
    session = Session(Consistency.bounded(4.0), 5.0)
    metadata = [("x-metastore-max-lag", "3")]
    # A replica that was found fresh must not pass the call on to one that was not.
    assert sent(session) == {"forwarded": "client"}
    assert sent(session, metadata) == {"forwarded": "client"}
    hop = [("x-metastore-forwarded", "router-1")]
    assert sent(session, hop) == {"forwarded": "router-1"}
    assert sent(session, to=PRIMARY) == {"max-lag": "4"}
    assert sent(session, metadata, to=PRIMARY) == {"max-lag": "3"}
    assert sent(session, metadata, rpc=OTHER, to=PRIMARY) == {}


def test_primary_consistency_is_told() -> None:
    session = Session(Consistency.PRIMARY, 5.0)
    assert sent(session, to=PRIMARY) == {"consistency": "primary"}
    assert sent(session, rpc=OTHER, to=PRIMARY) == {}


def test_tokens_are_told_to_all() -> None:
    session = Session(Consistency.EVENTUAL, None)
    assert sent(session, min_lsn="0/FF") == {"min-lsn": "0/FF"}
    both = sent(session, [("x-metastore-min-lsn", "0/1")], min_lsn="0/FF", to=PRIMARY)
    assert both == {"min-lsn": "0/FF"}
    with pytest.raises(errors.InvalidArgument, match="min_lsn"):
        sent(session, min_lsn="12")


def answered(session: Session, rpc, lsn: str | None, backend: Backend = PRIMARY) -> None:
    route = "fallback" if backend.role is BackendRole.PRIMARY else "replica"
    session.answered(rpc, session.terms(rpc, (), None, None), backend, served(lsn, route))


def test_read_your_writes_follows_writes_alone() -> None:
    session = Session(Consistency.READ_YOUR_WRITES, None)
    answered(session, READ, "0/999", REPLICA)
    assert sent(session) == {}
    answered(session, WRITE, "0/50")
    answered(session, WRITE, "0/40")
    assert sent(session) == {"min-lsn": "0/50"}
    # Of a client that reads otherwise for once.
    assert sent(session, consistency=Consistency.EVENTUAL) == {}


def test_monotonic_follows_reads_and_writes_and_asks() -> None:
    session = Session(Consistency.MONOTONIC, None)
    assert sent(session) == {"want-lsn": "true"}
    answered(session, READ, "0/50", REPLICA)
    assert sent(session) == {"min-lsn": "0/50", "want-lsn": "true"}
    answered(session, WRITE, "0/60")
    assert sent(session)["min-lsn"] == "0/60"


@pytest.mark.parametrize("level", [Consistency.READ_YOUR_WRITES, Consistency.MONOTONIC])
def test_a_write_that_told_no_position_asks_for_the_primary_until_one_is_known(
    level: Consistency,
) -> None:
    session = Session(level, None)
    answered(session, WRITE, None)
    terms = session.terms(READ, (), None, None)
    assert terms.need.primary_only
    assert terms.wants_lsn
    answered(session, READ, "0/70")
    terms = session.terms(READ, (), None, None)
    assert not terms.need.primary_only
    assert terms.need.min_lsn == 0x70


def test_an_answer_that_broke_off_counts_as_seen() -> None:
    session = Session(Consistency.MONOTONIC, None)
    session.broke_off(session.terms(READ, (), None, None))
    assert session.terms(READ, (), None, None).need.primary_only
    eventual = Session(Consistency.EVENTUAL, None)
    eventual.broke_off(eventual.terms(READ, (), None, None))
    assert eventual.terms(READ, (), None, None).need.is_eventual


def test_a_router_s_answer_from_a_replica_does_not_settle_what_the_primary_must() -> None:
    session = Session(Consistency.MONOTONIC, None)
    answered(session, WRITE, None)
    terms = session.terms(READ, (), None, None)
    session.answered(READ, terms, PRIMARY, served("0/70", "replica"))
    assert session.terms(READ, (), None, None).need.primary_only
