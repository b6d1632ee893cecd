"""Whether the node beside this process is ready or alive: a container's health check.

A program of its own, which loads still less than `proxy.__main__`, since it is run every few
seconds. It reads the node's configuration, and asks where that says that the node answers.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

from proxy.config import ConfigError, TlsSettings, config_path, load_health_endpoint

_READY: Final = "/health/readyz"
_LIVE: Final = "/health/livez"
# Of an answer that says what is wrong.
_SHOWN: Final = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the node; return 0 when it is ready, 1 when it is not, 2 for wrong usage.

    Prints the node's answer: which condition fails, and what to do.
    """
    options = _parser().parse_args(arguments)
    try:
        address, port, tls = load_health_endpoint(
            config_path(options.config, os.environ), os.environ
        )
    except ConfigError as error:
        print(f"metastore-proxy-health: {error}", file=sys.stderr)  # noqa: T201 - its own output
        return 2
    path = _LIVE if options.live else _READY
    try:
        status, text = _get(address, port, tls, path, options.timeout)
    except (OSError, HTTPException) as error:
        status, text = 0, f"no answer from {address}:{port}: {error}"
    print(text)  # noqa: T201 - its own output
    return 0 if status == 200 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metastore-proxy-health",
        description="Ask the node on this machine whether it is ready. Exit status: 0 it is, "
        "1 it is not or does not answer, 2 wrong usage or configuration.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the node's config; default: the file QW_CONFIG names",
    )
    parser.add_argument("--live", action="store_true", help="ask only whether the process is alive")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="default: 3")
    return parser


def _get(
    address: str, port: int, tls: TlsSettings | None, path: str, timeout: float
) -> tuple[int, str]:
    connection = (
        HTTPConnection(address, port, timeout=timeout)
        if tls is None
        else HTTPSConnection(address, port, timeout=timeout, context=_context(tls))
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_SHOWN).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _context(tls: TlsSettings) -> ssl.SSLContext:
    """Return how to speak to the node itself, whose certificate is for another name than this."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.verify_client_cert:
        context.load_cert_chain(tls.cert_path, tls.key_path)
    return context


if __name__ == "__main__":
    sys.exit(main())
