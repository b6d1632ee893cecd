"""The names of a call: the caller's where they are valid."""

from __future__ import annotations

import re

import pytest

from proxy.calls import CallRecord, new_request_id
from proxy.tracing import trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("given", ["a", "0b8c-11EE.x_y:/+=@~", "x" * 128])
def test_a_callers_id_is_kept(given: str) -> None:
    record = CallRecord("ListSplits", (("user-agent", "x"), ("x-request-id", given)))
    assert record.request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", 'a"b', "é", b"bytes"])
def test_an_id_that_a_log_line_cannot_hold_is_replaced(given: str | bytes) -> None:
    record = CallRecord("ListSplits", (("x-request-id", given),))
    assert re.fullmatch("[0-9a-f]{16}", record.request_id)
    assert record.request_id == record.request_id


def test_ids_that_are_made_differ() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331-00", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", TRACE),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        ("00-abc-def-01", ""),
        ("", ""),
    ],
)
def test_the_trace_is_that_of_traceparent(traceparent: str, trace_id: str) -> None:
    assert trace_id_of((("a", b"b"), ("traceparent", traceparent))) == trace_id


def test_without_traceparent_there_is_no_trace() -> None:
    assert CallRecord("ListSplits").trace_id == ""
