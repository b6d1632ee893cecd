from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.durations import parse_duration, render_duration
from proxy.config.sizes import parse_size, render_size
from tests.unit.config.conftest import Load

DURATIONS = {
    "10s": 10,
    "10 s": 10,
    " 10s ": 10,
    "1min 30s": 90,
    "1min30s": 90,
    "10min": 600,
    "200ms": 0.2,
    "4.2s": 4.2,
    "1.5h": 5400,
    "2hrs": 7200,
    "1hr 1hour 2hours": 14400,
    "1m": 60,
    "1M": 2630016,
    "2months": 2 * 2630016,
    "1y": 31557600,
    "1yr 1yrs 1year 1years": 4 * 31557600,
    "1w": 604800,
    "1wk 1wks 1week 1weeks": 4 * 604800,
    "1d 1day 1days": 3 * 86400,
    "5us": 5e-6,
    "5µs": 5e-6,
    "5usec": 5e-6,
    "7ns": 7e-9,
    "7nanos": 7e-9,
    "3millis": 0.003,
    "3msec": 0.003,
    "1sec 1secs 1second 1seconds": 4,
    "1mins 1minute 1minutes": 180,
    "0": 0,
    "0s": 0,
    "0ms 0s": 0,
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "10", "s", "10x", "10S", "1Min", "-1s", "+1s", "1e3s", "1s 5", ".5s", "1.s"]
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration with a unit"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_duration_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(render_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.2, "200ms"), (1, "1s"), (90, "1min 30s"), (600, "10min"), (90000, "1d 1h")],
)
def test_rendered_duration(seconds: float, text: str) -> None:
    assert render_duration(seconds) == text


SIZES = {
    "20MiB": 20 * 1024**2,
    "20 MiB": 20 * 1024**2,
    "20mib": 20 * 1024**2,
    "20Mi": 20 * 1024**2,
    "10MB": 10**7,
    "10m": 10**7,
    "100G": 10**11,
    "1.5 GB": 1_500_000_000,
    "1.5KiB": 1536,
    "1TiB": 1024**4,
    "2PB": 2 * 10**15,
    "1E": 10**18,
    "500": 500,
    "500 B": 500,
    "0": 0,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1.5", "-1MB", "10 XB", "1 000 B", "a1GB", "1.. B"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@given(st.integers(0, 2**40))
def test_size_round_trip(size: int) -> None:
    assert parse_size(render_size(size)) == size


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ("shutdown_delay: 30s", True),
        ("shutdown_delay: 5s, drain_timeout: 5s", True),
        ("shutdown_delay: 5s", False),
        ("shutdown_delay: 0s, drain_timeout: 0s", False),
    ],
)
def test_a_drain_that_leaves_calls_no_time(load: Load, keys: str, warned: bool) -> None:
    warnings = load(f"proxy: {{{keys}}}").warnings
    assert any("have no time to finish" in warning for warning in warnings) is warned
