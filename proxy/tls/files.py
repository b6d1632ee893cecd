"""The files of one end of TLS: read, checked against each other, and handed on as one whole.

Facts: Quickwit refuses a certificate file without a certificate, a key file without a key, and a
key that does not fit the certificate; of `ca_path` every certificate is trusted, and nothing else
is: not the system's.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.tls.certificates import Certificate, first_in_pem

_KEY: Final = re.compile(rb"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----")
# A key in the older form says on a line of its own that it is encrypted.
_OLD_ENCRYPTION: Final = b"Proc-Type: 4,ENCRYPTED"
# Files that are just being replaced are read again.
_ATTEMPTS: Final = 3
_LARGEST: Final = 1024 * 1024


class TlsError(ValueError):
    """Files that cannot be used; names the key and the path, and never shows a content."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the files are. `section` is the place of the keys, such as `grpc.tls`.

    With `is_mutual` a server demands a certificate of its clients, and a client presents one. A
    path that is empty is not read: see `load` for what that leaves out. `protocols` are what the
    connection may carry.
    """

    cert_path: str = ""
    key_path: str = ""
    ca_path: str = ""
    is_mutual: bool = False
    section: str = "tls"
    protocols: tuple[str, ...] = ("h2",)

    def key(self, name: str) -> str:
        """Return how a message names one of the keys, with its path."""
        path = getattr(self, name)
        return f"`{self.section}.{name}` ({path})" if path else f"`{self.section}.{name}`"


@dataclass(frozen=True, eq=False)
class Material:
    """What the files hold, in PEM; its text form shows nothing of it.

    `server` and `client` are contexts for either side of a connection, None where the files for
    it are missing. `onlooker` is that of a client who takes any certificate, to look at it and to
    send nothing. They are not to be changed.
    """

    chain: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    roots: bytes = field(default=b"", repr=False)
    certificate: Certificate | None = None
    server: ssl.SSLContext | None = field(default=None, repr=False)
    client: ssl.SSLContext | None = field(default=None, repr=False)
    onlooker: ssl.SSLContext | None = field(default=None, repr=False)


def load(files: TlsFiles, known: Material | None = None) -> Material:
    """Read and check the files; blocks. `TlsError` names the file, and says why and what to do.

    Returns `known` itself when the files hold just that. `server` needs a certificate, and
    `ca_path` when it is mutual; `client` needs `ca_path`, and a certificate when it is mutual.
    """
    if files.is_mutual:
        for name in ("cert_path", "key_path", "ca_path"):
            if not getattr(files, name):
                raise TlsError(f"{files.key(name)} is not set: mutual TLS needs it")
    for _ in range(_ATTEMPTS):
        read = _read_all(files)
        if known is not None and read == (known.chain, known.key, known.roots):
            return known
        try:
            material = _checked(files, *read)
        except TlsError:
            if _read_all(files) == read:
                raise
            continue
        # The contexts read the files on their own: they must have seen the same.
        if _read_all(files) == read:
            return material
    raise TlsError(f"the files of `{files.section}` keep changing while they are read: try later")


def _read_all(files: TlsFiles) -> tuple[bytes, bytes, bytes]:
    return (_read(files, "cert_path"), _read(files, "key_path"), _read(files, "ca_path"))


def _read(files: TlsFiles, name: str) -> bytes:
    path = getattr(files, name)
    if not path:
        return b""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise TlsError(f"cannot read {files.key(name)}: {why.lower()}") from None
    if len(content) > _LARGEST:
        raise TlsError(f"{files.key(name)} is not a PEM file: it is larger than {_LARGEST} bytes")
    return content


def _checked(files: TlsFiles, chain: bytes, key: bytes, roots: bytes) -> Material:
    certificate = None
    if chain or files.cert_path or files.key_path:
        certificate = _certificate(files, chain)
        _check_key(files, key)
    if files.ca_path:
        _check_roots(files, roots)
    server = None
    if certificate is not None:
        server = _context(files, roots, is_server=True, is_verifying=files.is_mutual)
    client = onlooker = None
    if files.ca_path:
        client = _context(files, roots, is_server=False, is_verifying=True)
        onlooker = _context(files, roots, is_server=False, is_verifying=False)
    return Material(chain, key, roots, certificate, server, client, onlooker)


def _context(
    files: TlsFiles, roots: bytes, *, is_server: bool, is_verifying: bool
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    # Not every build of Python sets it, as Debian's.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(files.protocols))
    if is_verifying:
        context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
        # As the gRPC library and Quickwit judge: any certificate in the file may end a chain, and
        # extensions that an old CA left out are not missed.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    elif not is_server:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert_path and (is_server or files.is_mutual):
        _load_identity(context, files)
    if is_server:
        # A session that is taken up again would not have its certificate looked at again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _load_identity(context: ssl.SSLContext, files: TlsFiles) -> None:
    def no_password() -> str:
        # Without this the library would ask on the terminal.
        raise _encrypted(files)

    try:
        context.load_cert_chain(files.cert_path, files.key_path, password=no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(
                f"the private key of {files.key('key_path')} does not match the certificate of "
                f"{files.key('cert_path')}: give the two files of one pair"
            ) from None
        why = (error.reason or "not understood").lower().replace("_", " ")
        raise TlsError(f"{files.key('key_path')} cannot be used: {why}") from None
    except OSError as error:
        # One of the two went away since it was read.
        why = (error.strerror or "unreadable").lower()
        raise TlsError(f"cannot read the files of `{files.section}`: {why}") from None


def _encrypted(files: TlsFiles) -> TlsError:
    return TlsError(
        f"the private key of {files.key('key_path')} is encrypted: store it without a passphrase, "
        "readable for this process alone"
    )


def _certificate(files: TlsFiles, chain: bytes) -> Certificate:
    if not files.cert_path:
        raise TlsError(f"{files.key('cert_path')} is not set, but {files.key('key_path')} is")
    try:
        return first_in_pem(chain.decode("ascii", "replace"))
    except ValueError as error:
        raise TlsError(f"{files.key('cert_path')} cannot be used: {error}") from None


def _check_key(files: TlsFiles, key: bytes) -> None:
    if not files.key_path:
        raise TlsError(f"{files.key('key_path')} is not set, but {files.key('cert_path')} is")
    found = _KEY.search(key)
    if found is None:
        raise TlsError(f"{files.key('key_path')} cannot be used: no private key in PEM form")
    if found[1].startswith(b"ENCRYPTED") or _OLD_ENCRYPTION in key:
        raise _encrypted(files)


def _check_roots(files: TlsFiles, roots: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        is_there = False
    else:
        is_there = context.cert_store_stats()["x509"] > 0
    if not is_there:
        raise TlsError(f"{files.key('ca_path')} cannot be used: no certificate in PEM form")
