"""What a failed TLS connection means, told by the side that saw it fail.

Facts: the reason names are OpenSSL's (an alert that arrived has ALERT in its name, and tells what
the *other* side objects to), the codes those of X509_V_ERR_*. A server of TLS 1.3 judges the
client's certificate after the client's handshake is over, so the client hears of it by an alert on
its first read. OpenSSL takes plain text for a wrong version, or for an HTTP request.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Final

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
# Self-signed, or no way from it to a certificate that is trusted.
_UNTRUSTED: Final = (2, 18, 19, 20, 21, 27)
_WRONG_NAME: Final = (62, 64)

_ALERTS: Final = {
    "UNKNOWN_CA": "untrusted",
    "CERTIFICATE_EXPIRED": "expired",
    "BAD_CERTIFICATE": "bad",
    "CERTIFICATE_UNKNOWN": "bad",
    "UNSUPPORTED_CERTIFICATE": "bad",
    "CERTIFICATE_REVOKED": "bad",
    "ACCESS_DENIED": "bad",
    "DECRYPT_ERROR": "bad",
    "CERTIFICATE_REQUIRED": "missing",
}
_PLAIN_TEXT: Final = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "BAD_RECORD_TYPE",
)
_NO_CERTIFICATE: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_OLD_PROTOCOL: Final = (
    "UNSUPPORTED_PROTOCOL",
    "NO_PROTOCOLS_AVAILABLE",
    "VERSION_TOO_LOW",
    "NO_SHARED_CIPHER",
    "NO_APPLICATION_PROTOCOL",
)


class Kind(Enum):
    """The causes that are told apart; values are those of the metric's label `reason`."""

    NO_CERTIFICATE = "no_client_certificate"
    UNTRUSTED = "untrusted_client_certificate"
    EXPIRED = "expired_client_certificate"
    BAD_CERTIFICATE = "bad_client_certificate"
    REFUSED_US = "client_refused_certificate"
    PLAIN_TEXT = "plaintext"
    PROTOCOL = "protocol"
    TIMEOUT = "timeout"
    BROKEN_OFF = "broken_off"


@dataclass(frozen=True)
class Cause:
    """Why a handshake failed, in one clause that names the side at fault."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Peer:
    """What a client knows of the server it talks to, for its messages.

    `address` is where it is, `name` what its certificate must be for, `section` where our own
    files are named, `hint` what to set so that we present a certificate. `shown` describes the
    certificate that it presented, `own` ours, where known.
    """

    address: str
    name: str
    section: str
    hint: str = ""
    shown_names: str = ""
    shown_expiry: str = ""
    own_expiry: str = ""


def server_sees(error: Exception, section: str, own_names: str) -> Cause:
    """Return why a client's handshake failed, from what the server's side of it raised."""
    if isinstance(error, TimeoutError):
        return Cause(Kind.TIMEOUT, "the client did not finish the handshake in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _client_certificate(error, section)
    reason = (getattr(error, "reason", None) or "") if isinstance(error, ssl.SSLError) else ""
    if reason == _NO_CERTIFICATE:
        return Cause(
            Kind.NO_CERTIFICATE,
            f"the client presented no certificate, and `{section}.verify_client_cert` demands one",
        )
    if reason in _PLAIN_TEXT:
        return Cause(Kind.PLAIN_TEXT, "the client speaks plain text, and this port speaks TLS")
    if (alert := _alert(reason)) is not None:
        return Cause(
            Kind.REFUSED_US,
            f"the client refused this node's certificate ({own_names}): {_OBJECTIONS[alert]}",
        )
    if reason in _OLD_PROTOCOL or "ALERT" in reason:
        return Cause(
            Kind.PROTOCOL, f"the client's TLS does not go with this node's: {_words(reason)}"
        )
    if isinstance(error, ssl.SSLEOFError | ConnectionError) or not reason:
        return Cause(
            Kind.BROKEN_OFF,
            "the client ended the connection during the handshake without saying why: it may have "
            f"refused this node's certificate ({own_names}), its own log tells",
        )
    return Cause(Kind.PROTOCOL, f"the handshake failed: {_words(reason)}")


_OBJECTIONS: Final = {
    "untrusted": "it is not signed by a CA that the client trusts",
    "expired": "it has expired",
    "bad": "it is not good for the address or name that the client connects to, or damaged",
    "missing": "the client wants one",
}


def _client_certificate(error: ssl.SSLCertVerificationError, section: str) -> Cause:
    if error.verify_code == _EXPIRED:
        return Cause(Kind.EXPIRED, "the client's certificate has expired")
    if error.verify_code == _NOT_YET_VALID:
        return Cause(Kind.EXPIRED, "the client's certificate is not valid yet: check the clocks")
    if error.verify_code in _UNTRUSTED:
        return Cause(
            Kind.UNTRUSTED,
            f"the client's certificate is not signed by a CA of `{section}.ca_path`",
        )
    return Cause(Kind.BAD_CERTIFICATE, f"the client's certificate is refused: {_verdict(error)}")


def client_sees(error: Exception, peer: Peer) -> str:
    """Return why a server cannot be reached by TLS, "" when it is not for a reason of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _server_certificate(error, peer)
    if not isinstance(error, ssl.SSLError):
        return ""
    reason = error.reason or ""
    if reason in _PLAIN_TEXT:
        return (
            f"{peer.address} speaks plain text, and this side TLS: set `grpc.tls` there as well, "
            f"or remove `{peer.section}` here"
        )
    if reason in ("TLSV1_ALERT_CERTIFICATE_REQUIRED", "TLSV13_ALERT_CERTIFICATE_REQUIRED"):
        return (
            f"{peer.address} demands a client certificate, and this side presented none: "
            f"{peer.hint}"
        )
    alert = _alert(reason)
    if alert == "untrusted":
        return (
            f"{peer.address} refused this side's certificate: it is not signed by a CA of the "
            f"`ca_path` there; see `{peer.section}.cert_path`"
        )
    if alert == "expired":
        when = f" (valid until {peer.own_expiry})" if peer.own_expiry else ""
        return (
            f"{peer.address} refused this side's certificate: it has expired{when}; "
            f"renew the files of `{peer.section}.cert_path` and `key_path`"
        )
    if alert is not None:
        return f"{peer.address} refused this side's certificate: {_words(reason)}"
    return f"no TLS connection to {peer.address}: {_words(reason) or 'the handshake failed'}"


def _server_certificate(error: ssl.SSLCertVerificationError, peer: Peer) -> str:
    until = f" (valid until {peer.shown_expiry})" if peer.shown_expiry else ""
    if error.verify_code == _EXPIRED:
        return f"the certificate of {peer.address} has expired{until}: renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return f"the certificate of {peer.address} is not valid yet: check the clocks"
    if error.verify_code in _UNTRUSTED:
        return (
            f"the certificate of {peer.address} is not signed by a CA of "
            f"`{peer.section}.ca_path`, the only ones that this side trusts"
        )
    if error.verify_code in _WRONG_NAME:
        names = f" but for {peer.shown_names}" if peer.shown_names else ""
        return (
            f"the certificate of {peer.address} is not for {peer.name}{names}: set "
            f"`{peer.section}.expected_name` to a name in it, or issue one for {peer.name}"
        )
    return f"the certificate of {peer.address} is refused: {_verdict(error)}"


def _alert(reason: str) -> str | None:
    """Return what the other side objects to in our certificate, None when it is not that."""
    _, found, name = reason.partition("_ALERT_")
    return _ALERTS.get(name) if found else None


def _verdict(error: ssl.SSLCertVerificationError) -> str:
    return error.verify_message or "it does not verify"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
