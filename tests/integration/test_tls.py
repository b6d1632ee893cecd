"""Two sides of a TLS connection that do not go together: each says which of them is at fault."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from proxy import errors
from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.config import TlsSettings
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.certificates import Authority, Issued, tls_settings
from tests.support.log_lines import written
from tests.support.tls_node import TlsNode, ask, tls_client, tls_node
from tests.support.waiting import until

REFUSED = "TLS connection refused"
# The wait for a backend that does not come is what these tests would spend their time on.
IMPATIENT = ClientOptions(connect_timeout=0.4)


@dataclass(frozen=True)
class Sides:
    """What both sides have that go together."""

    ours: Authority
    theirs: Authority
    node: Issued
    named: Issued
    client: Issued
    other: Issued
    expired: Issued
    misnamed: Issued

    @property
    def server(self) -> TlsSettings:
        return tls_settings(self.node, self.ours.ca)

    @property
    def mutual(self) -> ClientTls:
        return presenting(self.client, ca_path=str(self.ours.ca))


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    directory = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(directory), Authority(directory, "theirs")
    return Sides(
        ours=ours,
        theirs=theirs,
        node=ours.issue("node", "127.0.0.1", "node.local"),
        named=ours.issue("named", "node.local"),
        client=ours.issue("client", "client.local"),
        other=theirs.issue("other", "client.local"),
        expired=ours.issue_expired("expired", "127.0.0.1"),
        misnamed=ours.issue("misnamed", "elsewhere.example"),
    )


def presenting(own: Issued, *, ca_path: str) -> ClientTls:
    return ClientTls(ca_path=ca_path, cert_path=str(own.cert), key_path=str(own.key))


async def test_all_nodes_have_one_certificate(sides: Sides) -> None:
    """It has no address in it, as that of nodes whose addresses nobody knows before."""
    own = replace(sides.server, cert_path=str(sides.named.cert), key_path=str(sides.named.key))
    client = replace(sides.mutual, expected_name="node.local")
    async with tls_node(own) as node, tls_client(node.address, client) as ours:
        assert await ask(ours) == node.address


@pytest.mark.parametrize("name", [None, "node.local"])
@pytest.mark.parametrize("is_mutual", [True, False])
async def test_calls_are_answered(sides: Sides, name: str | None, is_mutual: bool) -> None:
    client = replace(sides.mutual, expected_name=name)
    if not is_mutual:
        client = replace(client, cert_path="", key_path="")
    async with (
        tls_node(replace(sides.server, verify_client_cert=is_mutual)) as node,
        tls_client(node.address, client) as ours,
    ):
        assert await ask(ours) == node.address


async def test_the_name_of_a_dns_target_is_looked_for(sides: Sides) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with tls_node(sides.server) as node:
        port = node.address.rpartition(":")[2]
        options = ClientOptions(tls=sides.mutual, connect_timeout=0.4)
        for host, is_named in (("node.local", True), ("other.local", False)):
            target = f"dns:///{host}:{port}"
            async with RoutingClient([target], options=options, resolve=resolve) as client:
                if is_named:
                    assert await ask(client) == node.address
                    continue
                assert "is not for other.local but for 127.0.0.1" in await trouble_of(client)


@dataclass(frozen=True)
class Case:
    """A pair that does not go together: what the client is told, what the node logs and counts."""

    server: Callable[[Sides], TlsSettings | None]
    client: Callable[[Sides], ClientTls | None]
    told: str
    logged: str
    reason: str


OURS = "the client refused this node's certificate (for {names}): "
CASES = {
    "no client certificate": Case(
        lambda s: s.server,
        lambda s: ClientTls(ca_path=str(s.ours.ca)),
        "{node} demands a client certificate, and this side presented none: set `tls.cert_path`",
        "the client presented no certificate, and `grpc.tls.verify_client_cert` demands one",
        "no_client_certificate",
    ),
    "client of another CA": Case(
        lambda s: s.server,
        lambda s: presenting(s.other, ca_path=str(s.ours.ca)),
        "{node} refused this side's certificate: it is not signed by a CA of the `ca_path` there",
        "the client's certificate is not signed by a CA of `grpc.tls.ca_path`",
        "untrusted_client_certificate",
    ),
    "expired client": Case(
        lambda s: s.server,
        lambda s: presenting(s.expired, ca_path=str(s.ours.ca)),
        "{node} refused this side's certificate: it has expired (valid until 2020-12-31 12:00 UTC)",
        "the client's certificate has expired",
        "expired_client_certificate",
    ),
    "node of another CA": Case(
        lambda s: s.server,
        lambda s: presenting(s.client, ca_path=str(s.theirs.ca)),
        "the certificate of {node} is not signed by a CA of `tls.ca_path`",
        OURS + "it is not signed by a CA that the client trusts",
        "client_refused_certificate",
    ),
    "expired node": Case(
        lambda s: tls_settings(s.expired, s.ours.ca),
        lambda s: s.mutual,
        "the certificate of {node} has expired (valid until 2020-12-31 12:00 UTC): renew it there",
        OURS + "it has expired",
        "client_refused_certificate",
    ),
    "node of another name": Case(
        lambda s: tls_settings(s.misnamed, s.ours.ca),
        lambda s: s.mutual,
        "the certificate of {node} is not for 127.0.0.1 but for elsewhere.example: set "
        "`tls.expected_name` to a name in it, or issue one for 127.0.0.1",
        OURS + "it is not good for the address or name that the client connects to, or damaged",
        "client_refused_certificate",
    ),
    "plain text to a TLS port": Case(
        lambda s: s.server,
        lambda _: None,
        "{node} speaks TLS, and this side plain text: set `grpc.tls`",
        "the client speaks plain text, and this port speaks TLS",
        "plaintext",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_both_sides_say_which_is_at_fault(sides: Sides, name: str) -> None:
    case = CASES[name]
    with written() as lines:
        async with (
            tls_node(case.server(sides)) as node,
            tls_client(node.address, case.client(sides), IMPATIENT) as client,
        ):
            told = case.told.format(node=node.address)
            assert (await trouble_of(client)).startswith(told)
            with pytest.raises(errors.Unavailable) as raised:
                await ask(client)
            assert str(raised.value).startswith(f"service unavailable: {told}")
            own = node.tls.grpc
            assert own is not None
            assert own.certificate is not None
            logged = case.logged.format(names=own.certificate.names_text)
            await until(lambda: logged in {line["reason"] for line in lines.of(REFUSED)})
            assert node.refused(case.reason) > 0
    assert {line["client"] for line in lines.of(REFUSED)} == {"127.0.0.1"}
    (seen,) = lines.of("backend not reached")
    assert seen["reason"].startswith(told)
    assert seen["level"] == "WARN"


async def trouble_of(client: RoutingClient) -> str:
    """Return why the client's one backend cannot be reached, once that is known."""
    return str(await until(lambda: client.backends().backends[0].trouble))


async def test_a_write_is_told_why_its_primary_is_out_of_reach(sides: Sides) -> None:
    stranger = presenting(sides.other, ca_path=str(sides.ours.ca))
    options = replace(IMPATIENT, tls=stranger)
    async with tls_node(sides.server) as node:
        writer = RoutingClient([node.address], options=options, allow_writes=True)
        async with writer:
            with pytest.raises(errors.Unavailable) as raised:
                await writer.delete_index(pb.DeleteIndexRequest())
    assert f"no connection to primary {node.address}: {node.address} refused this side's" in str(
        raised.value
    )


async def test_a_tls_client_is_told_that_a_node_speaks_plain_text(sides: Sides) -> None:
    async with tls_node(None) as node, tls_client(node.address, sides.mutual, IMPATIENT) as client:
        told = await trouble_of(client)
        assert told.startswith(f"{node.address} speaks plain text, and this side TLS: set")
        with pytest.raises(errors.Unavailable, match=node.address):
            await ask(client)


async def test_a_backend_that_is_mended_serves_again(sides: Sides, tmp_path: Path) -> None:
    own = Authority(tmp_path, "own")
    expired = own.issue_expired("node")
    client = ClientTls(ca_path=str(own.ca))
    settings = replace(tls_settings(expired, mutual=False), cert_poll_interval=0.05)
    async with tls_node(settings) as node, tls_client(node.address, client, IMPATIENT) as ours:
        assert "has expired" in await trouble_of(ours)
        own.issue("node")
        await ours.wait_ready()
        (backend,) = ours.backends().backends
        assert backend.trouble == ""
        assert await ask(ours) == node.address


# What else may arrive at a port


async def test_a_look_at_the_port_is_no_failure(sides: Sides) -> None:
    with written("debug") as lines:
        async with tls_node(sides.server) as node:
            host, _, port = node.address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()
            await no_connections(node)
    assert lines.of(REFUSED) == []


async def test_a_foreign_client_in_plain_text_reads_why(sides: Sides) -> None:
    async with tls_node(sides.server) as node:
        host, _, port = node.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nthis port speaks TLS\n")
        async with grpc.aio.insecure_channel(node.address) as channel:
            call = channel.unary_unary("/x.Y/Z")(b"")
            with pytest.raises(grpc.aio.AioRpcError, match=r"HTTP status 400"):
                await call


async def test_old_versions_of_tls_are_refused(sides: Sides) -> None:
    with written() as lines:
        async with tls_node(sides.server) as node:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(sides.ours.ca)
            with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
                context.minimum_version = ssl.TLSVersion.TLSv1_1
            with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("DEFAULT@SECLEVEL=0")
            host, _, port = node.address.rpartition(":")
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.open_connection(host, int(port), ssl=context)
            await no_connections(node)
            assert node.refused("protocol") == 1
    (line,) = lines.of(REFUSED)
    assert line["reason"].startswith("the client's TLS does not go with this node's: ")


async def test_a_client_that_stays_silent_holds_nobody_up(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.server.tls_front.HANDSHAKE_TIMEOUT", 0.5)
    with written() as lines:
        async with tls_node(sides.server) as node:
            host, _, port = node.address.rpartition(":")
            with socket.create_connection((host, int(port))) as silent:
                async with tls_client(node.address, sides.mutual) as client:
                    assert await ask(client) == node.address
                # The beginning of a handshake, and no more: it takes the one place there is.
                silent.sendall(b"\x16\x03\x01")
                await until(lambda: lines.of(REFUSED), timeout=10.0)
                async with tls_client(node.address, sides.mutual) as client:
                    assert await ask(client) == node.address
    (line,) = lines.of(REFUSED)
    assert line["reason"] == "the client did not finish the handshake in time"


async def no_connections(node: TlsNode) -> None:
    """Wait until the node has no connection left."""
    front = node.tls.grpc
    assert front is not None
    await until(lambda: front.connections == 0)
