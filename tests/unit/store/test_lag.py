"""What a replica makes of the heartbeat: an upper bound on the age of its data, or unknown."""

from __future__ import annotations

import json

import pytest

from proxy.store.lag import SKEW_MEMORY, Heartbeat, LagMeter, Writer, parse_heartbeat
from proxy.store.observer import end_of_record

STAMPER = '"node": "n", "cluster": "c", "generation": 9223372036854775807, "gossip": "10.0.0.1:1"'
WRITER = ("n", "c", 2**63 - 1, "10.0.0.1:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("[]", None),
        ("7", None),
        ("{}", None),
        ('{"at": "soon"}', None),
        ('{"at": null}', None),
        ('{"at": NaN}', None),
        ('{"at": Infinity}', None),
        ('{"at": 1e400}', None),
        ('{"at": 5, "timeline": null}', None),
        ('{"at": 5.5}', Heartbeat(5.5, 0)),
        ('{"at": 5.5, "timeline": 3, "lsn": "0/1", "node": "n"}', Heartbeat(5.5, 3)),
        ('{"at": 5, "timeline": -3}', Heartbeat(5.0, 0)),
        (f'{{"at": 5, {STAMPER}}}', Heartbeat(5.0, 0, Writer("n", "c", 2**63 - 1, "10.0.0.1:1"))),
        (f'{{"at": 5, {STAMPER}, "new": []}}', Heartbeat(5.0, 0, Writer(*WRITER))),
        *(
            (f'{{"at": 5, {STAMPER}}}'.replace(whole, broken), Heartbeat(5.0, 0))
            for whole, broken in (
                ('"n"', "7"),
                ('"c"', "null"),
                ("9223372036854775807", '"1"'),
                ("9223372036854775807", "1.5"),
                ('"10.0.0.1:1"', "[]"),
            )
        ),
    ],
)
def test_a_heartbeat_is_read_or_is_none(text: str | None, expected: Heartbeat | None) -> None:
    assert parse_heartbeat(text) == expected


def look(
    meter: LagMeter,
    now: float,
    *,
    clock: float,
    at: float | None,
    sender_ahead: float | None = None,
    in_recovery: bool = True,
) -> float | None:
    heartbeat = None if at is None else Heartbeat(at)
    meter.looked(
        heartbeat, clock=clock, sender_ahead=sender_ahead, in_recovery=in_recovery, now=now
    )
    return meter.lag(now)


def test_nothing_is_known_before_the_first_look() -> None:
    assert LagMeter().lag(100.0) is None


def test_the_bound_is_the_age_of_the_newest_stamp_and_grows_until_the_next_look() -> None:
    meter = LagMeter()
    assert look(meter, 100.0, clock=1000.0, at=999.5) == 0.5
    assert meter.lag(102.0) == 2.5
    assert look(meter, 102.0, clock=1002.0, at=1001.75) == 0.25


def test_a_stopped_receiver_or_paused_replay_makes_the_bound_grow() -> None:
    meter = LagMeter()
    bounds = [look(meter, 100.0 + n, clock=1000.0 + n, at=999.0) for n in range(4)]
    assert bounds == [1.0, 2.0, 3.0, 4.0]


def test_no_heartbeat_is_unknown_on_a_standby() -> None:
    assert look(LagMeter(), 100.0, clock=1000.0, at=None) is None


def test_a_primary_that_nobody_stamps_is_fresh() -> None:
    assert look(LagMeter(), 100.0, clock=1000.0, at=None, in_recovery=False) == 0.0


def test_a_promoted_replica_is_as_old_as_its_last_stamp() -> None:
    meter = LagMeter()
    look(meter, 100.0, clock=1000.0, at=999.5)
    # Promoted apart from the primary, which goes on without it.
    assert look(meter, 105.0, clock=1005.0, at=999.5, in_recovery=False) == 5.5
    # Stamped by the nodes that have followed.
    assert look(meter, 106.0, clock=1006.0, at=1005.75, in_recovery=False) == 0.25


def test_a_failed_look_is_unknown() -> None:
    meter = LagMeter()
    look(meter, 100.0, clock=1000.0, at=999.5)
    meter.failed()
    assert meter.lag(100.0) is None


def test_a_new_server_starts_unknown_and_without_the_old_ones_skew() -> None:
    meter = LagMeter()
    look(meter, 100.0, clock=1000.0, at=1030.0)
    meter.forget()
    assert meter.lag(100.0) is None
    assert look(meter, 101.0, clock=1000.0, at=999.0) == 1.0


class TestSkew:
    """The primary's clock is 30 s ahead: plain subtraction would say 0 for half a minute."""

    def test_a_stamp_from_the_future_adds_what_it_is_ahead(self) -> None:
        meter = LagMeter()
        assert look(meter, 100.0, clock=1000.0, at=1030.0) == 0.0
        # No new stamp for 10 s: replay stands still.
        assert look(meter, 110.0, clock=1010.0, at=1030.0) == 10.0
        # One that was made 8 s ago.
        assert look(meter, 110.0, clock=1010.0, at=1032.0) == 8.0

    def test_the_senders_clock_tells_of_skew_that_no_stamp_shows(self) -> None:
        # Replayed 40 s late, so that no stamp ever lies in the future.
        assert look(LagMeter(), 100.0, clock=1000.0, at=990.0) == 10.0
        assert look(LagMeter(), 100.0, clock=1000.0, at=990.0, sender_ahead=30.0) == 40.0

    def test_a_clock_that_is_behind_only_makes_the_bound_larger(self) -> None:
        assert look(LagMeter(), 100.0, clock=1000.0, at=970.0, sender_ahead=-30.0) == 30.0

    def test_skew_is_forgotten_when_it_was_long_not_seen(self) -> None:
        meter = LagMeter()
        look(meter, 100.0, clock=1000.0, at=1030.0)
        assert look(meter, 200.0, clock=1100.0, at=1099.0) == 31.0
        later = SKEW_MEMORY + 101.0
        assert look(meter, 100.0 + later, clock=1000.0 + later, at=999.0 + later) == 1.0

    def test_the_largest_skew_of_the_memory_counts(self) -> None:
        meter = LagMeter()
        look(meter, 100.0, clock=1000.0, at=1005.0)
        look(meter, 101.0, clock=1001.0, at=1021.0)
        look(meter, 102.0, clock=1002.0, at=1012.0)
        assert look(meter, 103.0, clock=1003.0, at=1003.0) == 20.0


@pytest.mark.parametrize(
    ("lsn", "offset", "expected"),
    [
        (None, None, None),
        ("0/3000060", None, 0x3000060),
        ("0/3000060", 0x60, 0x3000060),
        # Behind the header of a page, and of a segment's first page.
        ("0/3002018", 0x2018, 0x3002000),
        ("0/4000028", 0x28, 0x4000000),
        # The same offsets elsewhere are positions like others.
        ("0/3002028", 0x2028, 0x3002028),
        ("16/B374D848", 0x74D848, 0x16B374D848),
        ("FFFFFFFF/FFFFFFF8", 0xFFFFF8, 0xFFFFFFFFFFFFFFF8),
    ],
)
def test_a_position_is_where_the_last_record_ends(
    lsn: str | None, offset: int | None, expected: int | None
) -> None:
    assert end_of_record(lsn, offset) == expected


def test_the_row_of_a_heartbeat_of_an_older_version_is_read() -> None:
    text = json.dumps({"at": 12.0, "lsn": "0/1", "node": "n"})
    assert parse_heartbeat(text) == Heartbeat(12.0, 0)
