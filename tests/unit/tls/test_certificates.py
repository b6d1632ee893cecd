from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.tls.certificates import Certificate, first_in_pem, read_certificate
from tests.support.certificates import Authority

NAMES = ("node.local", "*.example.org", "10.1.2.3", "2001:db8::7")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    issued = Authority(tmp_path_factory.mktemp("ca")).issue(
        "node",
        *NAMES,
        # The one is written with two digits of the year, the other with four.
        not_before=datetime(1999, 2, 3, 4, 5, 6, tzinfo=UTC),
        not_after=datetime(2051, 12, 31, 23, 59, tzinfo=UTC),
    )
    return issued.cert.read_text()


def test_the_first_certificate_of_a_file_is_read(pem: str) -> None:
    found = first_in_pem(f"a comment\n{pem}")
    assert sorted(found.names) == sorted(NAMES)
    assert found.not_before == datetime(1999, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert found.expiry == "2051-12-31 23:59 UTC"


def test_a_message_shows_a_few_names() -> None:
    now = datetime.now(UTC)
    many = tuple(f"n{number}" for number in range(8))
    assert Certificate((), now, now).names_text == "no name"
    assert Certificate(many[:5], now, now).names_text == "n0, n1, n2, n3, n4"
    assert Certificate(many, now, now).names_text == "n0, n1, n2, n3, n4 and 3 more"


def test_nothing_but_a_value_error_comes_of_broken_bytes(pem: str) -> None:
    der = ssl.PEM_cert_to_DER_cert(pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)])
    for end in range(len(der)):
        with pytest.raises(ValueError, match=r"X\.509|unpack"):
            read_certificate(der[:end])
    survived = 0
    for place in range(len(der)):
        for value in (0x00, 0xFF, der[place] ^ 0x04):
            try:
                read_certificate(der[:place] + bytes([value]) + der[place + 1 :])
            except ValueError:
                continue
            survived += 1
    # Most of a certificate is of no interest here, such as its key and its signature.
    assert survived > len(der)


@pytest.mark.parametrize(
    "text", ["", "nonsense", ssl.PEM_HEADER, f"{ssl.PEM_FOOTER}{ssl.PEM_HEADER}"]
)
def test_a_text_without_a_certificate_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no certificate in PEM form"):
        first_in_pem(text)
