"""What the log says of a request that is not HTTP: one line, and nothing of its bytes.

The HTTP library writes a trace, with what it read; that may be a token, or a whole header.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import http_exceptions

log = logging.getLogger(__name__)

_TLS: Final = "HTTPS traffic"
_HTTP_2: Final = "Pause on PRI"


class _Refusals(logging.Filter):
    """Makes a line of ours of each of the library's about a request that it cannot read."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place; leave out what nobody asked for."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, http_exceptions.HttpProcessingError):
            who = record.args[0] if isinstance(record.args, tuple) and record.args else ""
            record.msg, record.args = "HTTP request refused", ()
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.__dict__.update(client=str(who or "unknown"), reason=_reason(error))
        return log.isEnabledFor(record.levelno)


def _reason(error: http_exceptions.HttpProcessingError) -> str:
    if _TLS in error.message:
        return (
            "the client speaks TLS, and this port plain text: set `rest.tls` here, or use http://"
        )
    if _HTTP_2 in error.message:
        return "the client speaks HTTP/2, and this port HTTP/1.1: gRPC has `grpc_listen_port`"
    if isinstance(error, http_exceptions.LineTooLong):
        return "a line of the request is too long"
    return "the request is not HTTP/1.1"


def request_log() -> logging.Logger:
    """Return the logger to give to the HTTP library."""
    logger = logging.getLogger(f"{__name__}.requests")
    # What a client did wrong is told at a lower level by the library than is of use.
    logger.setLevel(logging.DEBUG)
    if not logger.filters:
        logger.addFilter(_Refusals())
    return logger
