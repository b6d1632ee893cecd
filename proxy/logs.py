"""Structured log lines, on standard error, with every secret removed.

An event is logged as `log.info("node is ready", extra={"role": ...})`; the fields of `extra` become
keys of the line. Two formats: `console` for people and `json` for collectors. A line written for a
call bears its request ID, and its trace ID if it has one. Warnings and errors that repeat are held
back and counted: see `proxy.repeats`.

Facts: the names of the levels are Quickwit's.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Hashable, Iterable, MutableMapping
from datetime import UTC, datetime
from typing import Final, TextIO

from proxy.calls import current_call
from proxy.config.redact import redact
from proxy.repeats import Repeats

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Keys of a line that no field of an event may take.
RESERVED: Final = frozenset(
    {"timestamp", "level", "target", "message", "worker", "request_id", "trace_id", "exception"}
)
_LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_NAMES: Final = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}
# These repeat at debug level what our own lines say, or (hpack) tell each header field of a call,
# with the secrets of callers.
_NOISY: Final = ("asyncio", "aiohttp.access", "hpack")

_worker: int | None = None

# Logger, level and message.
_Event = tuple[str, int, str]


class _Formatter(logging.Formatter):
    """The console format; secrets go before anything is quoted or escaped into another form."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = tuple(filter(None, secrets))

    def redact(self, text: str) -> str:
        return redact(text, self._secrets)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        found = {
            key: self.clean(value) for key, value in vars(record).items() if key not in _STANDARD
        }
        if _worker is not None:
            found["worker"] = _worker
        call = current_call.get()
        if call is not None:
            found["request_id"] = self.clean(call.request_id)
            if call.trace_id:
                found["trace_id"] = call.trace_id
        return found

    def clean(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.clean(element) for element in value]
        return self.redact(str(value))

    def trace(self, record: logging.LogRecord) -> str:
        return self.redact(self.formatException(record.exc_info)) if record.exc_info else ""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = _on_one_line(self.redact(record.getMessage()))
        fields = "".join(f" {key}={_plain(value)}" for key, value in self.fields(record).items())
        line = f"{moment} {_level(record):<5} {record.name}: {message}{fields}"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": _level(record),
            "target": record.name,
            "message": self.redact(record.getMessage()),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.trace(record)
        return json.dumps(line, ensure_ascii=False)


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname)


def _plain(value: object) -> str:
    text = str(value)
    is_plain = text.isprintable() and not set(text) & set(' "=') and text != ""
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, but holds back warnings and errors that repeat."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        super().__init__(stream)
        self._clock = clock
        self._repeats: Repeats[_Event] = Repeats()

    # Called under the handler's lock.
    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        if record.levelno >= logging.WARNING:
            event = (record.name, record.levelno, str(record.msg))
            count = self._repeats.admit(event, _key(record), now)
            if count is None:
                return
            if count:
                record.held_back = count
        for event, count in self._repeats.due(now):
            self._tell(event, count)
        super().emit(record)

    def _tell(self, event: _Event, count: int) -> None:
        name, level, message = event
        summary = logging.makeLogRecord(
            {"name": name, "levelno": level, "levelname": logging.getLevelName(level)}
        )
        summary.msg = "repeated"
        summary.event = message
        summary.held_back = count
        super().emit(summary)


def _key(record: logging.LogRecord) -> Hashable:
    """Return what a line is about: its fields, but for numbers, which differ each time."""
    fields = [
        (key, str(value))
        for key, value in vars(record).items()
        if key not in _STANDARD and not isinstance(value, int | float)
    ]
    error = record.exc_info[0] if record.exc_info else None
    return (str(record.args), str(error), *fields)


def quiet_grpc_core(environ: MutableMapping[str, str]) -> None:
    """Keep the gRPC core from writing informational lines of its own to standard error.

    To be called before the first channel or server is made. What `environ` says already stays.
    """
    environ.setdefault("GRPC_VERBOSITY", "NONE")


def name_worker(number: int | None) -> None:
    """Have each line tell which of a node's processes wrote it; None where there is only one."""
    global _worker  # noqa: PLW0603 - what is true of this process as a whole
    _worker = number


def set_levels(levels: str) -> None:
    """Write lines of these levels from now on: `info`, or `info,proxy.client=debug`.

    `levels` is `proxy.log_level` of a checked configuration.
    """
    wanted = {"": "info"}
    for item in levels.split(","):
        module, _, level = item.rpartition("=")
        wanted[module] = level
    manager = logging.getLogger().manager
    for name in [name for name in manager.loggerDict if name.partition(".")[0] == "proxy"]:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for module, level in wanted.items():
        logging.getLogger(module).setLevel(_LEVELS[level])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.INFO, _LEVELS[wanted[""]]))


def configure(
    *,
    log_format: str = "console",
    level: str = "info",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send the logs of this process to `stream` (standard error) in the given format."""
    handler = _Handler(stream or sys.stderr, clock)
    formatter = _JsonFormatter if log_format == "json" else _Formatter
    handler.setFormatter(formatter(secrets))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_levels(level)
