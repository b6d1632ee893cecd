"""Why a connection to a database was not made, in words that name the side at fault.

Facts: the driver shows OpenSSL's text, or a file's error without its name; when a server refuses
the client's certificate it only sees the connection end, and the server's log has the reason.
SQLSTATE 28000 with these texts is what PostgreSQL says for want of a certificate, or of TLS.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg

from proxy.config import PostgresUri
from proxy.store import grants
from proxy.tls import Material, TlsError, TlsFiles, load

_PARAMETERS: Final = {"cert_path": "sslcert", "key_path": "sslkey", "ca_path": "sslrootcert"}
_WRONG_NAME: Final = (62, 64)
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9


@dataclass(frozen=True)
class _UriFiles(TlsFiles):
    """The files that a URI names."""

    def key(self, name: str) -> str:
        """Return the parameter, with its path."""
        path = getattr(self, name)
        return f"`{_PARAMETERS[name]}` of the URI" + (f" ({path})" if path else "")


def describe(uri: PostgresUri, error: BaseException) -> str:
    """Return why a connection failed, on one line and without the URI's secrets."""
    text = (
        _of_tls(uri, error)
        or _of_pooler(uri, error)
        or grants.explain(error, uri)
        or " ".join(str(error).split())
        or type(error).__name__
    )
    return uri.redact(text)


def _of_pooler(uri: PostgresUri, error: BaseException) -> str:
    """Return what is wrong with a pooler that the URI does not say is one."""
    if uri.is_pooled or "unsupported startup parameter" not in str(error):
        return ""
    return f"a PgBouncer answers ({error}): add `pgbouncer=true` to the query of the URI"


def _of_tls(uri: PostgresUri, error: BaseException) -> str:
    """Return what is wrong with TLS, "" when it is something else."""
    given = dict(uri.ssl_files)
    files = _UriFiles(
        given.get("sslcert", ""), given.get("sslkey", ""), given.get("sslrootcert", "")
    )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _server_certificate(error, files)
    if isinstance(error, OSError | ValueError | asyncpg.InterfaceError) and given:
        # The driver's text names no file.
        try:
            load(files)
        except TlsError as problem:
            return str(problem)
    if isinstance(error, ssl.SSLError):
        why = (error.reason or str(error)).lower().replace("_", " ")
        return f"the TLS handshake with the database server failed: {why}"
    text = str(error)
    if "rejected SSL upgrade" in text:
        return (
            f"the database server does not speak TLS, and `sslmode={uri.ssl_mode}` of the URI "
            "demands it: set `ssl = on` in the server, or another `sslmode`"
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return _not_authorized(text, files)
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and files.cert_path:
        return _client_certificate(files)
    return ""


def _server_certificate(error: ssl.SSLCertVerificationError, files: TlsFiles) -> str:
    its = "the certificate of the database server"
    if error.verify_code in _WRONG_NAME:
        return (
            f"{its} is not for the host of the URI ({error.verify_message.rstrip('.')}): name the "
            "host as it does, or use `sslmode=verify-ca`"
        )
    if error.verify_code == _EXPIRED:
        return f"{its} has expired: renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return f"{its} is not valid yet: check the clocks"
    return f"{its} is not signed by a CA of {files.key('ca_path')} ({error.verify_message})"


def _not_authorized(text: str, files: TlsFiles) -> str:
    if "valid client certificate" in text:
        hint = "" if files.cert_path else ", and the URI names none: add `sslcert` and `sslkey`"
        return f"the database server demands a client certificate{hint} ({text})"
    if text.endswith("no encryption"):
        return f"the database server takes no plain text: use `sslmode=require` or more ({text})"
    return ""


def _client_certificate(files: TlsFiles) -> str:
    try:
        own: Material | None = load(files)
    except TlsError:
        own = None
    certificate = None if own is None else own.certificate
    why = "or has another reason, which its log has: it trusts the CAs of its `ssl_ca_file` alone"
    if certificate is not None and certificate.not_after < datetime.now(UTC):
        why = f"which has expired (valid until {certificate.expiry})"
    return (
        "the database server ended the connection in the handshake: it refused "
        f"{files.key('cert_path')}, {why}"
    )
