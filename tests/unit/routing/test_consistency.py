"""Values of routing's metadata."""

from __future__ import annotations

import pytest

from proxy.errors import InvalidArgument
from proxy.routing.consistency import (
    Consistency,
    Level,
    Need,
    Token,
    Wishes,
    format_lsn,
    format_seconds,
    parse_allow_replica,
    parse_consistency,
    parse_lag,
    parse_lsn,
    parse_max_lag,
    parse_min_lsn,
    read_wishes,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "lag"),
    [
        ("0.250", 0.25),
        ("0", 0.0),
        ("12", 12.0),
        (None, None),
        ("", None),
        ("unknown", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_lag(text: str | None, lag: float | None) -> None:
    assert parse_lag(text) == lag


@pytest.mark.parametrize(
    ("text", "allowed"), [(None, False), ("true", True), ("TRUE", True), ("  True ", True)]
)
def test_allow_replica(text: str | None, allowed: bool) -> None:
    assert parse_allow_replica(text) is allowed


@pytest.mark.parametrize("text", ["", "false", "1", "yes", "truee"])
def test_any_other_wish_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="x-metastore-allow-replica"):
        parse_allow_replica(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("0", 0.0), ("1", 1.0), ("0.5", 0.5), (".25", 0.25), (" 10. ", 10.0)],
)
def test_max_lag(text: str | None, seconds: float | None) -> None:
    assert parse_max_lag(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "nan", "inf", "1e3", "1_0", "1s", "0x1", "1,5", ".", "9" * 20, "٣"]
)
def test_a_bound_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="x-metastore-max-lag"):
        parse_max_lag(text)


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        (None, None),
        ("0/0", 0),
        ("16/B374D848", 0x16_B374D848),
        (" 0/ff ", 255),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ],
)
def test_min_lsn(text: str | None, lsn: int | None) -> None:
    assert parse_min_lsn(text) == lsn


@pytest.mark.parametrize("text", ["", "0", "/1", "1/", "0/G", "0/123456789", "-1/0", "0/0/0"])
def test_a_position_that_is_none_is_refused(text: str) -> None:
    assert parse_lsn(text) is None
    with pytest.raises(InvalidArgument, match="x-metastore-min-lsn"):
        parse_min_lsn(text)


@pytest.mark.parametrize("text", ["0/0", "0/FF", "16/B374D848", "FFFFFFFF/FFFFFFFF"])
def test_positions_are_written_as_postgresql_does(text: str) -> None:
    assert format_lsn(parse_lsn(text) or 0) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0"), (1.0, "1"), (10.0, "10"), (0.25, "0.25"), (1 / 3, "0.333333")]
)
def test_seconds_are_never_rounded_up(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_consistency_in_metadata() -> None:
    assert parse_consistency(None) is None
    assert parse_consistency(" Primary ") == Consistency.PRIMARY
    assert parse_consistency("eventual") == Consistency.EVENTUAL
    for text in ("", "bounded", "strong"):
        with pytest.raises(InvalidArgument, match="x-metastore-consistency"):
            parse_consistency(text)


def test_only_a_bound_has_a_bound() -> None:
    assert Consistency.bounded(1.5).max_lag == 1.5
    with pytest.raises(ValueError, match="bound"):
        Consistency(Level.EVENTUAL, 1.0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_lag"):
            Consistency.bounded(wrong)


def test_wishes_are_read_from_text_and_bytes() -> None:
    assert read_wishes([]) == Wishes()
    found = read_wishes(
        [
            ("traceparent", "x"),
            ("x-metastore-max-lag", "1"),
            ("x-metastore-min-lsn", b"0/10"),
            ("x-metastore-allow-replica", "true"),
            ("x-metastore-want-lsn", "TRUE"),
            ("x-metastore-consistency", "primary"),
        ]
    )
    assert found == Wishes(1.0, 16, Consistency.PRIMARY, True, True)
    with pytest.raises(InvalidArgument, match="x-metastore-want-lsn"):
        read_wishes([("x-metastore-want-lsn", "yes")])


EVENTUAL, RYW = Consistency.EVENTUAL, Consistency.READ_YOUR_WRITES


@pytest.mark.parametrize(
    ("wishes", "arguments", "need"),
    [
        (Wishes(), {"consistency": EVENTUAL}, Need()),
        (Wishes(), {"consistency": Consistency.bounded(2)}, Need(max_lag=2)),
        (Wishes(max_lag=1.0), {"consistency": Consistency.bounded(2)}, Need(max_lag=1.0)),
        # A bound only ever gets tighter.
        (Wishes(max_lag=5.0), {"consistency": EVENTUAL, "max_lag": 3.0}, Need(max_lag=3.0)),
        (
            Wishes(consistency=EVENTUAL),
            {"consistency": Consistency.bounded(2), "max_lag": 9.0},
            Need(max_lag=9.0),
        ),
        (Wishes(min_lsn=5), {"consistency": EVENTUAL, "min_lsn": 7}, Need(min_lsn=7)),
        (Wishes(), {"consistency": RYW, "token": Token(9)}, Need(min_lsn=9)),
        (Wishes(min_lsn=11), {"consistency": RYW, "token": Token(9)}, Need(min_lsn=11)),
        (Wishes(), {"consistency": EVENTUAL, "token": Token(9, True)}, Need()),
        (Wishes(), {"consistency": RYW, "token": Token(None, True)}, Need(primary_only=True)),
        (Wishes(), {"consistency": Consistency.PRIMARY}, Need(primary_only=True)),
        (
            Wishes(consistency=Consistency.PRIMARY),
            {"consistency": EVENTUAL},
            Need(primary_only=True),
        ),
        (Wishes(), {"consistency": Consistency.MONOTONIC}, Need(proves_lsn=True)),
        (Wishes(allow_replica=True), {"consistency": EVENTUAL}, Need(allow_replica=True)),
    ],
)
def test_what_a_call_needs(wishes: Wishes, arguments, need: Need) -> None:
    assert resolve(wishes, **arguments) == need


def test_a_need_is_eventual_only_when_it_asks_for_nothing() -> None:
    assert Need(allow_replica=True).is_eventual
    for need in (
        Need(max_lag=9.0),
        Need(min_lsn=0),
        Need(primary_only=True),
        Need(proves_lsn=True),
    ):
        assert not need.is_eventual


def test_a_token_only_grows() -> None:
    token = Token().after(5, is_primary=False)
    assert token == Token(5)
    assert token.after(3, is_primary=True) is token
    assert token.after(7, is_primary=False) == Token(7)


def test_a_token_is_unproven_until_the_primary_tells_its_position() -> None:
    token = Token(5).after(None, is_primary=True)
    assert token == Token(5, True)
    assert token.after(None, is_primary=True) is token
    assert token.after(9, is_primary=False) == Token(9, True)
    assert token.after(9, is_primary=True) == Token(9)


@pytest.mark.parametrize(
    "header",
    [
        "x-metastore-max-lag",
        "x-metastore-min-lsn",
        "x-metastore-consistency",
        "x-metastore-allow-replica",
        "x-metastore-want-lsn",
    ],
)
def test_two_values_that_differ_are_refused(header: str) -> None:
    with pytest.raises(InvalidArgument, match=f"`{header}` must be given once"):
        read_wishes([(header, "1"), (header, "2")])


def test_a_value_may_be_repeated_and_hops_may_differ() -> None:
    bound = ("x-metastore-max-lag", "1")
    hops = [("x-metastore-forwarded", "one"), ("x-metastore-forwarded", "two")]
    assert read_wishes([bound, bound, *hops]).max_lag == 1.0
