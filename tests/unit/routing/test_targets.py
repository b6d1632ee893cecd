"""Targets as people write them."""

from __future__ import annotations

import pytest

from proxy.routing.targets import Target, parse_target, parse_targets


@pytest.mark.parametrize(
    ("text", "expected", "address"),
    [
        ("primary:7281", Target("primary", 7281), "primary:7281"),
        ("10.0.0.1:1", Target("10.0.0.1", 1), "10.0.0.1:1"),
        ("a_b.c-d.svc.:65535", Target("a_b.c-d.svc.", 65535), "a_b.c-d.svc.:65535"),
        ("[::1]:7281", Target("::1", 7281), "[::1]:7281"),
        ("[FE80::1%eth0]:7281", Target("fe80::1%eth0", 7281), "[fe80::1%eth0]:7281"),
        ("dns:///replicas:7281", Target("replicas", 7281, True), "replicas:7281"),
        ("dns:///[::1]:7281", Target("::1", 7281, True), "[::1]:7281"),
    ],
)
def test_a_target_is_read(text: str, expected: Target, address: str) -> None:
    assert parse_target(text) == expected
    assert expected.address == address
    assert parse_target(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "primary",
        ":7281",
        "primary:",
        "primary:0",
        "primary:65536",
        "primary:-1",
        "primary:+1",
        "primary:http",
        "primary:٣",
        "::1:7281",
        "[::1]",
        "[nonsense]:7281",
        "[]:7281",
        "http://primary:7281",
        "dns://8.8.8.8/primary:7281",
        "dns:primary:7281",
        "dns:///",
        "dns:///primary",
        "unix:///run/socket",
        "two words:7281",
        "-dash:7281",
        "primary:7281,other:7281",
        "primary:7281\n",
        "primary:" + "9" * 5000,
    ],
)
def test_a_malformed_target_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="target") as caught:
        parse_target(text)
    assert repr(text) in str(caught.value)


def test_a_list_loses_its_repeats_and_keeps_its_order() -> None:
    assert [str(t) for t in parse_targets(["b:1", "a:1", "b:1"], "replicas")] == ["b:1", "a:1"]


@pytest.mark.parametrize("texts", [["a:1", "b"], "a:1"])
def test_a_bad_list_names_its_field(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="replicas"):
        parse_targets(texts, "replicas")
