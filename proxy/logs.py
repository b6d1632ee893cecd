"""Structured log lines, on standard error, with every secret removed.

An event is logged as `log.info("node is ready", extra={"role": ...})`; the fields of `extra` become
keys of the line. Two formats: `console` for people and `json` for collectors.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, MutableMapping
from datetime import UTC, datetime
from typing import Final, TextIO

REDACTED: Final = "***redacted***"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Replaces known secrets in any text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first, so that a secret that contains another one goes whole.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text


class _Formatter(logging.Formatter):
    """The console format; secrets go before anything is quoted or escaped into another form."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self.redact = redact

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        return {
            key: self.clean(value) for key, value in vars(record).items() if key not in _STANDARD
        }

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
        message = self.redact(record.getMessage())
        fields = "".join(f" {key}={_plain(value)}" for key, value in self.fields(record).items())
        line = f"{moment} {record.levelname:<7} {record.name}: {message}{fields}"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "target": record.name,
            "message": self.redact(record.getMessage()),
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.trace(record)
        return json.dumps(line, ensure_ascii=False)


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def quiet_grpc_core(environ: MutableMapping[str, str]) -> None:
    """Keep the gRPC core from writing informational lines of its own to standard error.

    To be called before the first channel or server is made. What `environ` says already stays.
    """
    environ.setdefault("GRPC_VERBOSITY", "ERROR")


def configure(
    *,
    log_format: str = "console",
    level: str = "info",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send the logs of this process to `stream` (standard error) in the given format."""
    redact = Redactor(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(redact) if log_format == "json" else _Formatter(redact))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # These repeat at debug level what our own lines say.
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
