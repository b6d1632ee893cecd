"""Which of a URI's servers is chosen."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.config import parse_postgres_uri
from proxy.store.servers import Server, Wanted, choose, wanted_by


def server(place: int, kind: str, timeline: int = 1, identity: str = "a") -> Server:
    return Server(place, kind == "standby", timeline, identity)


A, B, C = server(0, "primary"), server(1, "standby"), server(2, "standby")
PROMOTED = server(1, "primary", 2)


@pytest.mark.parametrize(
    ("servers", "wanted", "known", "expected"),
    [
        ([A, B], Wanted.PRIMARY, None, A),
        ([B, A], Wanted.PRIMARY, None, A),
        ([A], Wanted.PRIMARY, A, A),
        # After a promotion, whoever answers first and whichever was used.
        ([A, PROMOTED], Wanted.PRIMARY, A, PROMOTED),
        ([PROMOTED, A], Wanted.PRIMARY, None, PROMOTED),
        ([PROMOTED, A], Wanted.PRIMARY, PROMOTED, PROMOTED),
        # The old primary has come back as a standby of the new one.
        ([server(0, "standby", 2), PROMOTED], Wanted.PRIMARY, PROMOTED, PROMOTED),
        # A server used before wins over one as good; else the order of the URI counts.
        ([A, server(1, "primary")], Wanted.PRIMARY, server(1, "primary"), server(1, "primary")),
        ([server(1, "primary"), A], Wanted.PRIMARY, None, A),
        ([A, B, C], Wanted.PREFER_STANDBY, None, B),
        ([A, B, C], Wanted.PREFER_STANDBY, C, C),
        ([A], Wanted.PREFER_STANDBY, C, A),
        ([A, C], Wanted.PREFER_STANDBY, A, C),
        ([A, B], Wanted.STANDBY, A, B),
        ([B, A], Wanted.ANY, None, A),
        ([A, B], Wanted.ANY, B, B),
    ],
)
def test_the_choice(
    servers: list[Server], wanted: Wanted, known: Server | None, expected: Server
) -> None:
    assert choose(servers, wanted, known) == expected


@pytest.mark.parametrize(
    ("servers", "wanted", "known", "reason"),
    [
        ([], Wanted.PRIMARY, None, "no server of the URI answers"),
        ([], Wanted.ANY, A, "no server of the URI answers"),
        ([B, C], Wanted.PRIMARY, None, "standby in recovery"),
        ([A], Wanted.PRIMARY, PROMOTED, "timeline 1, which was left behind for 2"),
        ([C, A], Wanted.PRIMARY, PROMOTED, "left behind"),
        ([server(1, "primary", 0)], Wanted.PRIMARY, A, "does not tell its timeline, which was 1"),
        ([A, server(1, "primary", 1, "b")], Wanted.PRIMARY, None, "different clusters"),
        ([server(1, "primary", 9, "b")], Wanted.PRIMARY, A, "another cluster"),
        ([A], Wanted.STANDBY, None, "no server is a standby"),
    ],
)
def test_no_server_is_chosen_and_the_reason_is_said(
    servers: list[Server], wanted: Wanted, known: Server | None, reason: str
) -> None:
    with pytest.raises(errors.Connection, match=reason):
        choose(servers, wanted, known)


@pytest.mark.parametrize(
    ("attrs", "default", "expected"),
    [
        ("", Wanted.PREFER_STANDBY, Wanted.PREFER_STANDBY),
        ("any", Wanted.PREFER_STANDBY, Wanted.ANY),
        ("standby", Wanted.PREFER_STANDBY, Wanted.STANDBY),
        ("read-only", Wanted.PREFER_STANDBY, Wanted.STANDBY),
        ("primary", Wanted.PREFER_STANDBY, Wanted.PRIMARY),
        ("prefer-standby", Wanted.ANY, Wanted.PREFER_STANDBY),
        # Writes go to the primary whatever the URI says.
        ("any", Wanted.PRIMARY, Wanted.PRIMARY),
        ("standby", Wanted.PRIMARY, Wanted.PRIMARY),
    ],
)
def test_what_a_uri_asks_for(attrs: str, default: Wanted, expected: Wanted) -> None:
    suffix = f"?target_session_attrs={attrs}" if attrs else ""
    assert wanted_by(parse_postgres_uri(f"postgresql://a,b/db{suffix}"), default) is expected
