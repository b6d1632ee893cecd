"""Log lines: fields, formats, and no secret in any of them."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy
from proxy import logs
from proxy.calls import CallRecord, current_call
from proxy.config import REDACTED

SECRET = 'p"ss wörd/1'


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_console_line_has_level_name_message_and_fields(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logging.getLogger("proxy.test").info("node is ready", extra={"role": "metastore", "why": "a b"})
    line = stream.getvalue()
    assert line.endswith('INFO  proxy.test: node is ready role=metastore why="a b"\n')


def test_a_json_line_is_one_object(stream: io.StringIO) -> None:
    logs.configure(log_format="json", stream=stream)
    logging.getLogger("proxy.test").warning("not ready", extra={"count": 3, "uri": None})
    line = json.loads(stream.getvalue())
    assert line["level"] == "WARN"
    assert line["message"] == "not ready"
    assert line["target"] == "proxy.test"
    assert (line["count"], line["uri"]) == (3, None)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_secret_is_in_no_part_of_a_line(stream: io.StringIO, log_format: str) -> None:
    logs.configure(log_format=log_format, secrets=[SECRET], stream=stream)
    log = logging.getLogger("proxy.test")
    try:
        raise ValueError("cannot connect with " + SECRET)
    except ValueError:
        log.exception("failed with %s", SECRET, extra={"uri": f"x:{SECRET}@y", "list": [SECRET]})
    text = stream.getvalue()
    assert SECRET not in text
    assert json.dumps(SECRET, ensure_ascii=False)[1:-1] not in text
    assert text.count(REDACTED) >= 3


@pytest.mark.parametrize(("worker", "expected"), [(None, {}), (2, {"worker": 2})])
def test_a_line_tells_which_worker_wrote_it(
    stream: io.StringIO, worker: int | None, expected: dict[str, int]
) -> None:
    logs.name_worker(worker)
    try:
        # Also once the logs are set up anew, as by a reload.
        logs.configure(log_format="json", stream=stream)
        logging.getLogger("proxy.test").info("node is ready")
    finally:
        logs.name_worker(None)
    line = json.loads(stream.getvalue())
    assert {key: value for key, value in line.items() if key == "worker"} == expected


def test_a_level_filters(stream: io.StringIO) -> None:
    logs.configure(level="warn", stream=stream)
    logging.getLogger("proxy.test").info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("levels", "written"),
    [
        ("info", ["proxy.client.pool info", "proxy.store info", "other info"]),
        (
            "warn,proxy.client=debug",
            ["proxy.client.pool debug", "proxy.client.pool info"],
        ),
        ("trace,proxy=off", ["other debug", "other info"]),
        ("proxy.store=error", ["proxy.client.pool info", "other info"]),
    ],
)
def test_levels_hold_for_modules(stream: io.StringIO, levels: str, written: list[str]) -> None:
    logs.configure(level=levels, stream=stream)
    for name in ("proxy.client.pool", "proxy.store", "other"):
        logging.getLogger(name).debug("%s debug", name)
        logging.getLogger(name).info("%s info", name)
    logs.set_levels("info")
    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == written


def test_levels_that_are_set_anew_leave_nothing_of_the_old_ones(stream: io.StringIO) -> None:
    logs.configure(level="info,proxy.client=debug", stream=stream)
    logs.set_levels("warn")
    logging.getLogger("proxy.client").info("quiet")
    logging.getLogger("proxy.store").warning("loud")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_event_is_one_line_whatever_is_in_it(stream: io.StringIO, log_format: str) -> None:
    logs.configure(log_format=log_format, stream=stream)
    forged = "x\n2026-01-01T00:00:00.000+00:00 ERROR proxy: all is lost"
    logging.getLogger("proxy.test").info("reason: %s", forged, extra={"why": "a\nb", "is": "a=b"})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\n")


def test_a_line_bears_the_ids_of_the_call_it_is_written_for(stream: io.StringIO) -> None:
    logs.configure(log_format="json", stream=stream)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("x-request-id", "abc-1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    token = current_call.set(CallRecord("ListSplits", metadata))
    logging.getLogger("proxy.test").info("within")
    current_call.reset(token)
    logging.getLogger("proxy.test").info("without")
    within, without = map(json.loads, stream.getvalue().splitlines())
    assert (within["request_id"], within["trace_id"]) == ("abc-1", trace)
    assert not {"request_id", "trace_id"} & set(without)


def test_repeated_warnings_are_held_back_and_counted(stream: io.StringIO) -> None:
    now = [0.0]
    logs.configure(log_format="json", stream=stream, clock=lambda: now[0])
    log = logging.getLogger("proxy.test")
    for number in range(3):
        log.warning("probe failed", extra={"reason": "refused", "seconds": number})
    log.warning("probe failed", extra={"reason": "no route"})
    for now[0] in (10.0, 11.0, 20.0, 21.0):
        log.warning("probe failed", extra={"reason": "refused"})
    now[0] = 30.0
    log.info("node is ready")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [
        (line["message"], line.get("reason"), line.get("event"), line.get("held_back"))
        for line in lines
    ] == [
        ("probe failed", "refused", None, None),
        ("probe failed", "no route", None, None),
        ("repeated", None, "probe failed", 2),
        ("probe failed", "refused", None, None),
        ("probe failed", "refused", None, 1),
        ("repeated", None, "probe failed", 1),
        ("node is ready", None, None, None),
    ]
    assert (lines[2]["target"], lines[2]["level"]) == ("proxy.test", "WARN")


def test_no_event_has_a_field_that_hides_a_key_of_its_line() -> None:
    fields = {
        key.value
        for path in Path(proxy.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.keyword) and call.arg == "extra"
        for part in ast.walk(call.value)
        if isinstance(part, ast.Dict)
        for key in part.keys
        if isinstance(key, ast.Constant)
    }
    assert "reason" in fields
    assert not fields & logs.RESERVED


# The last one is part of what stands for a secret.
@pytest.mark.parametrize("secrets", [["abc", "abcdef", ""], ["abcdef", "act"]])
def test_the_longer_of_two_secrets_goes_whole(stream: io.StringIO, secrets: list[str]) -> None:
    logs.configure(secrets=secrets, stream=stream)
    logging.getLogger("proxy.test").info("xabcdefy")
    assert stream.getvalue().endswith(f"proxy.test: x{REDACTED}y\n")
