"""Values of routing's metadata."""

from __future__ import annotations

import pytest

from proxy.errors import InvalidArgument
from proxy.routing.consistency import parse_allow_replica, parse_lag


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
