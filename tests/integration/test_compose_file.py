"""docker-compose.yml: valid for Docker Compose, nothing of one machine in it, and no password."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from proxy.config import load_config
from tests.support.compose import FILE, PASSWORDS, ROOT, ComposeFile, compose, load
from tests.support.image import DOCKERFILE

TEXT = FILE.read_text()
NAMES = sorted(yaml.safe_load(TEXT)["services"])
QUICKWIT = {"quickwit-indexer", "quickwit-searcher"}
# What each service waits for.
NEEDS = {
    "postgres-primary": {},
    "postgres-replica": {"postgres-primary": "service_healthy"},
    "migrate": {"postgres-primary": "service_healthy"},
    "metastore": {"migrate": "service_completed_successfully"},
    "replica-1": {
        "migrate": "service_completed_successfully",
        "postgres-replica": "service_healthy",
    },
    "replica-2": {
        "migrate": "service_completed_successfully",
        "postgres-replica": "service_healthy",
    },
    "router": {
        "metastore": "service_healthy",
        "replica-1": "service_healthy",
        "replica-2": "service_healthy",
    },
    "prometheus": {},
    "grafana": {"prometheus": "service_healthy"},
    "quickwit-indexer": {"metastore": "service_healthy"},
    "quickwit-searcher": {
        "metastore": "service_healthy",
        "quickwit-indexer": "service_started",
        "replica-1": "service_healthy",
    },
}


@pytest.fixture(scope="module")
def file() -> ComposeFile:
    """The file as Docker Compose resolves it, which checks it against the schema."""
    return load()


def test_compose_refuses_what_its_schema_does_not_know(tmp_path: Path) -> None:
    # That the check checks: the same call with one wrong key.
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(TEXT.replace("read_only: true", "readonly: true"))
    found = compose("--file", str(wrong), "config", "--quiet", **PASSWORDS)
    assert found.returncode != 0
    assert "readonly" in found.stderr


def test_there_is_a_service_for_everything(file: ComposeFile) -> None:
    assert sorted(file.services) == NAMES == sorted(NEEDS)
    profiles = {name: one.document.get("profiles") for name, one in file.services.items()}
    assert {name for name, one in profiles.items() if one == ["quickwit"]} == QUICKWIT
    assert {name for name, one in profiles.items() if one} == QUICKWIT


@pytest.mark.parametrize("name", NAMES)
def test_a_service_starts_after_what_it_needs(file: ComposeFile, name: str) -> None:
    assert file.services[name].needs == NEEDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_whoever_is_waited_for_has_a_health_check(file: ComposeFile, name: str) -> None:
    for needed, condition in file.services[name].needs.items():
        if condition == "service_healthy":
            assert file.services[needed].probe is not None


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_a_version_and_a_limit(file: ComposeFile, name: str) -> None:
    document = file.services[name].document
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", document["image"])
    assert set(document["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - QUICKWIT))
def test_a_service_has_no_rights_that_it_does_not_need(file: ComposeFile, name: str) -> None:
    service = file.services[name]
    assert service.document["cap_drop"] == ["ALL"]
    assert service.document["security_opt"] == ["no-new-privileges:true"]
    if service.is_ours:
        built = service.document["build"]
        assert Path(built["context"]) == ROOT
        assert ROOT / built["dockerfile"] == DOCKERFILE
        assert service.document["read_only"] is True
        assert service.volumes == {}
        assert service.document["tmpfs"] == ["/tmp", "/quickwit/qwdata"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_of_one_machine(file: ComposeFile, name: str) -> None:
    service = file.services[name]
    for source in service.mounts.values():
        assert source.is_relative_to(ROOT / "config")
        assert source.exists()
    modes = {
        one["read_only"] for one in service.document.get("volumes", ()) if one["type"] == "bind"
    }
    assert modes <= {True}
    assert set(service.volumes.values()) <= set(file.document["volumes"])
    for port in service.document.get("ports", ()):
        assert port["host_ip"] == "127.0.0.1"


def test_no_two_services_take_one_port_of_the_host(file: ComposeFile) -> None:
    taken = [
        port["published"]
        for one in file.services.values()
        for port in one.document.get("ports", ())
    ]
    assert len(taken) == len(set(taken)) == 5


@pytest.mark.parametrize("missing", sorted(PASSWORDS))
def test_without_a_password_nothing_starts(missing: str) -> None:
    given = {name: value for name, value in PASSWORDS.items() if name != missing}
    found = compose("config", "--quiet", **given)
    assert found.returncode != 0
    assert f"required variable {missing} is missing a value" in found.stderr


def test_the_command_at_its_head_writes_every_password(tmp_path: Path) -> None:
    head = [line.removeprefix("#").strip() for line in TEXT.splitlines() if line.startswith("#   ")]
    command = "\n".join(line for line in head if not line.startswith("docker"))
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=30)
    written = tmp_path / ".env"
    assert written.stat().st_mode & 0o077 == 0
    pairs = dict(line.split("=") for line in written.read_text().splitlines())
    assert set(pairs) == set(PASSWORDS)
    assert len(set(pairs.values())) == len(pairs)
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in pairs.values())


def test_the_file_holds_no_password() -> None:
    for line in TEXT.splitlines():
        key, _, value = line.strip().partition(": ")
        if key.endswith(("PASSWORD", "_password")):
            assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]*\}", value), line


@pytest.mark.parametrize("name", ["metastore", "replica-1", "replica-2", "router"])
def test_the_nodes_accept_their_config_without_a_warning(file: ComposeFile, name: str) -> None:
    service = file.services[name]
    config = load_config(
        ROOT / "config/docker/cluster.yaml",
        environ=service.container.environment,
        services=[service.arguments[-1]],
    )
    assert config.warnings == ()
    assert config.node_id == name
    assert config.cluster_id == "metastore-compose"
    others = {"metastore", "replica-1", "replica-2", "router"} - {name}
    assert set(config.peer_seeds) == others


def test_quickwits_nodes_join_the_same_cluster_and_bring_no_metastore(file: ComposeFile) -> None:
    config = yaml.safe_load((ROOT / "config/docker/quickwit.yaml").read_text())
    assert config["cluster_id"] == "metastore-compose"
    assert config["searcher"] == {"use_metastore_read_replica": True}
    services = {
        word
        for name in QUICKWIT
        for word in file.services[name].arguments
        if word not in {"run", "--service"}
    }
    assert services == {"control-plane", "indexer", "janitor", "searcher"}
    for name in QUICKWIT:
        seeds = file.services[name].document["environment"]["QW_PEER_SEEDS"].split(",")
        assert set(seeds) <= set(file.services)


@pytest.mark.parametrize("name", ["metastore", "replica-1", "replica-2", "router"])
def test_a_node_has_time_to_drain_before_it_is_killed(file: ComposeFile, name: str) -> None:
    config = load_config(
        ROOT / "config/docker/cluster.yaml",
        environ=file.services[name].container.environment,
        services=[file.services[name].arguments[-1]],
    )
    grace = re.fullmatch(r"(\d+)s", file.services[name].document["stop_grace_period"])
    assert grace is not None
    # The bound of the whole drain, and some for what is closed after it.
    assert int(grace[1]) >= config.proxy.drain_timeout + 5
