"""Files that change while they are in use: taken into use without a failed call, or left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.client import ClientTls, RoutingClient
from proxy.tls import TlsError
from tests.support.certificates import Authority, Issued, replace_file, tls_settings
from tests.support.log_lines import written
from tests.support.tls_node import TlsNode, ask, tls_client, tls_node, under_load
from tests.support.waiting import until

NOT_RELOADED = "TLS files not reloaded: what was loaded before stays in use"


class Rig:
    """A node and a client in mutual TLS, each with files of its own."""

    def __init__(self, directory: Path) -> None:
        self.old = Authority(directory, "old")
        self.new = Authority(directory, "new")
        self.node_ca, self.client_ca = directory / "node-ca.pem", directory / "client-ca.pem"
        for ca in (self.node_ca, self.client_ca):
            replace_file(ca, self.old.ca.read_bytes())
        self.node_files = self.old.issue("node")
        self.client_files = self.old.issue("client", "client")
        self.settings = tls_settings(self.node_files, self.node_ca)
        self.client_tls = ClientTls(
            ca_path=str(self.client_ca),
            cert_path=str(self.client_files.cert),
            key_path=str(self.client_files.key),
        )

    def trust_both(self) -> None:
        both = self.old.ca.read_bytes() + self.new.ca.read_bytes()
        for ca in (self.node_ca, self.client_ca):
            replace_file(ca, both)

    def trust_the_new(self) -> None:
        for ca in (self.node_ca, self.client_ca):
            replace_file(ca, self.new.ca.read_bytes())

    def issue_anew(self) -> None:
        self.new.issue("node")
        self.new.issue("client", "client")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def more(made: Callable[[], int]) -> None:
    """Wait for some more calls."""
    enough = made() + 20
    await until(lambda: made() >= enough)


async def reload_all(node: TlsNode, client: RoutingClient) -> None:
    reloads = [*await node.tls.reload(), await client.reload_tls()]
    assert [(one.changed, one.error) for one in reloads] == [(True, ""), (True, "")]


async def test_certificates_and_ca_are_rotated_under_load(rig: Rig) -> None:
    async with tls_node(rig.settings) as node, tls_client(node.address, rig.client_tls) as client:
        await client.wait_ready()
        changes = list[object]()
        async with under_load(client) as made:
            for change in (rig.trust_both, rig.issue_anew, rig.trust_the_new):
                change()
                await reload_all(node, client)
                await more(made)
                changes.append(client.backends().backends[0].since)
        # Not once was the backend out of service.
        assert len(set(changes)) == 1
        assert node.refused("untrusted_client_certificate") == 0
        # Nobody presents or trusts the old CA any more.
        stranger = replace(rig.client_tls, ca_path=str(rig.old.ca))
        assert "is not signed by a CA" in await trouble_of(node, stranger)


async def trouble_of(node: TlsNode, tls: ClientTls) -> str:
    async with tls_client(node.address, tls) as client:
        return str(await until(lambda: client.backends().backends[0].trouble))


async def test_changed_files_are_found_by_polling(rig: Rig) -> None:
    settings = replace(rig.settings, cert_poll_interval=0.02)
    polling = replace(rig.client_tls, poll_interval=0.02)
    async with tls_node(settings) as node, tls_client(node.address, polling) as client:
        assert await ask(client) == node.address
        before = expiry(node)
        with written() as lines:
            rig.trust_both()
            rig.issue_anew()
            await until(lambda: len(lines.of("TLS files reloaded")) >= 2)
            await until(lambda: reloads(node, "success") >= 1)
        assert expiry(node) == before
        assert await ask(client) == node.address


def expiry(node: TlsNode) -> float | None:
    name = "metastore_proxy_tls_certificate_expiry_timestamp_seconds"
    return node.metrics.registry.get_sample_value(name, {"port": "grpc"})


def reloads(node: TlsNode, result: str) -> float:
    name = "quickwit_tls_cert_reloads_total"
    return node.metrics.registry.get_sample_value(name, {"result": result}) or 0.0


async def test_calls_under_way_end_on_the_connection_they_began_on(rig: Rig) -> None:
    async with tls_node(rig.settings) as node, tls_client(node.address, rig.client_tls) as client:
        await client.wait_ready()
        front = node.tls.grpc
        assert front is not None
        node.hold.clear()
        slow = asyncio.create_task(ask(client))
        await until(lambda: node.held)
        rig.trust_both()
        rig.issue_anew()
        await reload_all(node, client)
        await until(lambda: front.connections == 2)
        node.hold.set()
        assert await slow == node.address
        # The old connection goes when nothing is under way on it any more.
        await until(lambda: front.connections == 1)
        assert await ask(client) == node.address


async def test_a_bad_file_changes_nothing(rig: Rig) -> None:
    async with tls_node(rig.settings) as node, tls_client(node.address, rig.client_tls) as client:
        assert await ask(client) == node.address
        with written() as lines:
            other = rig.old.issue("elsewhere")
            replace_file(rig.node_files.key, other.key.read_bytes())
            rig.client_files.key.unlink()
            (of_node,) = await node.tls.reload()
            of_client = await client.reload_tls()
        told = [line["error"] for line in lines.of(NOT_RELOADED)]
        assert told == [of_node.error, of_client.error]
        assert "does not match the certificate of `grpc.tls.cert_path`" in of_node.error
        assert of_client.error.startswith("cannot read `tls.key_path`")
        assert (reloads(node, "failure"), reloads(node, "success")) == (1, 0)
        async with tls_client(node.address, presenting(rig, other)) as another:
            assert await ask(another) == node.address
        assert await ask(client) == node.address


def presenting(rig: Rig, own: Issued) -> ClientTls:
    return replace(rig.client_tls, cert_path=str(own.cert), key_path=str(own.key))


async def test_a_bad_file_is_told_once_while_it_is_polled(rig: Rig) -> None:
    settings = replace(rig.settings, cert_poll_interval=0.02)
    async with tls_node(settings) as node:
        with written() as lines:
            rig.node_files.cert.write_text("nonsense")
            await until(lambda: reloads(node, "failure") >= 5)
            assert len(lines.of(NOT_RELOADED)) == 1


async def test_a_client_whose_new_certificate_is_refused_goes_on_with_the_old(rig: Rig) -> None:
    async with tls_node(rig.settings) as node, tls_client(node.address, rig.client_tls) as client:
        assert await ask(client) == node.address
        with written() as lines:
            async with under_load(client) as made:
                # The node does not trust the new CA yet.
                rig.new.issue("client", "client")
                assert (await client.reload_tls()).changed
                event = "backend not reached with the new TLS files: the old connection goes on"
                await until(lambda: lines.of(event))
                await more(made)
        (line,) = lines.of(event)
        assert line["reason"].startswith(f"{node.address} refused this side's certificate")


async def test_a_client_does_not_open_with_files_that_cannot_be_used(rig: Rig) -> None:
    client = tls_client("127.0.0.1:1", replace(rig.client_tls, ca_path="/no/such/file"))
    with pytest.raises(TlsError, match=r"cannot read `tls\.ca_path` \(/no/such/file\)"):
        await client.open()
    assert client.backends().backends == ()
