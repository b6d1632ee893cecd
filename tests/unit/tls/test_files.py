"""What is refused of TLS files, and in which words: never with a part of what they hold."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.tls import Material, TlsError, TlsFiles, load
from tests.support.certificates import Authority, replace_file


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    authority = Authority(tmp_path)
    own = authority.issue("node", "node.local")
    return TlsFiles(str(own.cert), str(own.key), str(authority.ca), True, "grpc.tls")


def encrypt(form: PrivateFormat) -> Callable[[TlsFiles], None]:
    def spoil(files: TlsFiles) -> None:
        key = load_pem_private_key(Path(files.key_path).read_bytes(), None)
        text = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
        Path(files.key_path).write_bytes(text)

    return spoil


def take_another_key(files: TlsFiles) -> None:
    other = Authority(Path(files.ca_path).parent, "other").issue("other")
    replace_file(Path(files.key_path), other.key.read_bytes())


def swap(files: TlsFiles) -> None:
    cert, key = Path(files.cert_path), Path(files.key_path)
    content = cert.read_bytes()
    cert.write_bytes(key.read_bytes())
    key.write_bytes(content)


def write(name: str, content: bytes) -> Callable[[TlsFiles], None]:
    return lambda files: Path(getattr(files, name)).write_bytes(content) and None


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda f: os.unlink(f.cert_path),
            "cannot read `grpc.tls.cert_path` ({cert}): no such file",
        ),
        (lambda f: os.unlink(f.key_path), "cannot read `grpc.tls.key_path` ({key}): no such file"),
        (lambda f: os.unlink(f.ca_path), "cannot read `grpc.tls.ca_path` ({ca}): no such file"),
        (write("cert_path", b"x"), "`grpc.tls.cert_path` ({cert}) cannot be used: no certificate"),
        (write("key_path", b"x"), "`grpc.tls.key_path` ({key}) cannot be used: no private key"),
        (write("ca_path", b"x"), "`grpc.tls.ca_path` ({ca}) cannot be used: no certificate"),
        (write("ca_path", b"x" * 2_000_000), "`grpc.tls.ca_path` ({ca}) is not a PEM file"),
        (
            write("key_path", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "`grpc.tls.key_path` ({key}) cannot be used: ",
        ),
        (swap, "`grpc.tls.cert_path` ({cert}) cannot be used: no certificate in PEM form"),
        (
            encrypt(PrivateFormat.PKCS8),
            "the private key of `grpc.tls.key_path` ({key}) is encrypted",
        ),
        (
            encrypt(PrivateFormat.TraditionalOpenSSL),
            "the private key of `grpc.tls.key_path` ({key}) is encrypted",
        ),
        (
            take_another_key,
            "the private key of `grpc.tls.key_path` ({key}) does not match the certificate of `grp",
        ),
    ],
)
def test_a_bad_file_is_named_with_the_reason(
    files: TlsFiles, spoil: Callable[[TlsFiles], None], problem: str
) -> None:
    keys = [Path(files.key_path).read_text()]
    spoil(files)
    if Path(files.key_path).exists():
        keys.append(Path(files.key_path).read_text())
    with pytest.raises(TlsError) as raised:
        load(files)
    expected = problem.format(cert=files.cert_path, key=files.key_path, ca=files.ca_path)
    assert str(raised.value).startswith(expected)
    for line in "\n".join(keys).splitlines():
        assert len(line) < 8 or line not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ({"ca_path": ""}, "`grpc.tls.ca_path` is not set: mutual TLS needs it"),
        ({"cert_path": ""}, "`grpc.tls.cert_path` is not set: mutual TLS needs it"),
        ({"cert_path": "", "is_mutual": False}, "`grpc.tls.cert_path` is not set, but"),
        ({"key_path": "", "is_mutual": False}, "`grpc.tls.key_path` is not set, but"),
    ],
)
def test_a_path_that_is_needed_is_asked_for(
    files: TlsFiles, missing: dict[str, str], problem: str
) -> None:
    with pytest.raises(TlsError) as raised:
        load(replace(files, **missing))
    assert str(raised.value).startswith(problem)


def test_what_is_not_given_is_left_out(files: TlsFiles) -> None:
    only_trust = load(TlsFiles(ca_path=files.ca_path))
    assert (only_trust.server, only_trust.certificate, only_trust.chain) == (None, None, b"")
    only_own = load(replace(files, ca_path="", is_mutual=False))
    assert (only_own.client, only_own.roots) == (None, b"")


def test_each_side_verifies_the_other(files: TlsFiles) -> None:
    mutual = load(files)
    assert mutual.server is not None
    assert mutual.client is not None
    assert mutual.server.verify_mode is ssl.CERT_REQUIRED
    assert mutual.client.verify_mode is ssl.CERT_REQUIRED
    assert mutual.client.check_hostname
    one_way = load(replace(files, is_mutual=False))
    assert one_way.server is not None
    assert one_way.server.verify_mode is ssl.CERT_NONE


def test_files_that_hold_the_same_are_the_same_material(files: TlsFiles) -> None:
    first = load(files)
    assert load(files, known=first) is first
    take = Authority(Path(files.ca_path).parent, "next")
    again = take.issue("node", "node.local")
    assert str(again.cert) == files.cert_path
    second = load(files, known=first)
    assert second is not first
    assert second.chain != first.chain


def test_its_text_form_shows_nothing_of_the_key(files: TlsFiles) -> None:
    material = load(files)
    assert isinstance(material, Material)
    assert "PRIVATE" not in repr(material)
    assert "BEGIN" not in repr(material)
