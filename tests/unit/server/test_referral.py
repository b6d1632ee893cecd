"""Which errors name the primary."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.routing.catalogue import RPCS
from proxy.server.referral import Referral

ADDRESS = "10.0.0.5:7281"
FORBIDDEN = errors.Forbidden("not here")
UNAVAILABLE = errors.Unavailable("not now")


@pytest.mark.parametrize(
    ("rpc", "asked", "error"),
    [
        ("CreateIndex", {}, FORBIDDEN),
        ("StageSplits", {}, UNAVAILABLE),
        ("ListIndexTemplates", {}, UNAVAILABLE),
        ("ListSplits", {"x-metastore-consistency": "primary"}, UNAVAILABLE),
    ],
)
def test_a_call_that_only_a_primary_serves_is_sent_there(
    rpc: str, asked: dict[str, str], error: errors.Forbidden | errors.Unavailable
) -> None:
    answered, metadata = Referral(lambda: ADDRESS).refer(RPCS[rpc], asked.items(), error)
    assert metadata == (("x-metastore-primary", ADDRESS),)
    assert type(answered) is type(error)
    assert str(answered) == f"{error}; send it to the primary at {ADDRESS}"


@pytest.mark.parametrize(
    ("rpc", "asked", "error"),
    [
        ("CreateIndex", {}, errors.AlreadyExists(errors.index("i"))),
        ("CreateIndex", {}, errors.InvalidArgument("no")),
        ("CreateIndex", {}, errors.TooManyRequests()),
        ("CreateIndex", {}, errors.Timeout("no")),
        ("CreateIndex", {"x-metastore-consistency": "nonsense"}, UNAVAILABLE),
        ("ListSplits", {}, UNAVAILABLE),
        ("ListSplits", {"x-metastore-max-lag": "1"}, UNAVAILABLE),
        ("ListIndexTemplates", {"x-metastore-allow-replica": "true"}, UNAVAILABLE),
    ],
)
def test_any_other_error_stays_as_it_is(
    rpc: str, asked: dict[str, str], error: errors.MetastoreError
) -> None:
    assert Referral(lambda: ADDRESS).refer(RPCS[rpc], asked.items(), error) == (error, ())


def test_without_a_primary_nothing_is_named() -> None:
    assert Referral().refer(RPCS["CreateIndex"], (), FORBIDDEN) == (FORBIDDEN, ())


def test_what_is_added_leaves_the_metadata_small() -> None:
    long = errors.Unavailable("é" * 5000)
    address = f"{'h' * 253}:65535"
    answered, metadata = Referral(lambda: address).refer(RPCS["CreateIndex"], (), long)
    size = len(answered.to_json()) * 4 // 3 + sum(len(key) + len(value) for key, value in metadata)
    # The text is sent twice, once percent-encoded.
    assert size + 3 * len(str(answered).encode()) < 8 * 1024
