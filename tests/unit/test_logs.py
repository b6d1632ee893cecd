"""Log lines: fields, formats, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from proxy import logs

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
    assert line.endswith('INFO    proxy.test: node is ready role=metastore why="a b"\n')


def test_a_json_line_is_one_object(stream: io.StringIO) -> None:
    logs.configure(log_format="json", stream=stream)
    logging.getLogger("proxy.test").warning("not ready", extra={"count": 3, "uri": None})
    line = json.loads(stream.getvalue())
    assert line["level"] == "WARNING"
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
    assert text.count(logs.REDACTED) >= 3


def test_a_level_filters(stream: io.StringIO) -> None:
    logs.configure(level="warning", stream=stream)
    logging.getLogger("proxy.test").info("quiet")
    assert stream.getvalue() == ""


def test_the_longer_of_two_secrets_goes_whole() -> None:
    assert logs.Redactor(["abc", "abcdef", ""])("xabcdefy") == f"x{logs.REDACTED}y"
