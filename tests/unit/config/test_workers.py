"""How many processes a node has."""

from __future__ import annotations

import pytest

from proxy.__main__ import main
from proxy.config import ConfigError, describe
from tests.unit.config.conftest import PRIMARY, Load

URI = f"metastore_uri: {PRIMARY}\n"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("", {}, 1),
        ("proxy: {workers: 3}", {}, 3),
        ("proxy: {workers: 3}", {"METASTORE_PROXY_WORKERS": "2"}, 2),
    ],
)
def test_workers(load: Load, text: str, environ: dict[str, str], expected: int) -> None:
    config = load(URI + text, environ=environ)
    assert config.proxy.workers == expected
    assert describe(config)["proxy"]["workers"] == expected
    assert config.worker is None


@pytest.mark.parametrize("given", ["0", "65", "-1", "two", "1.5", "true"])
def test_a_number_that_is_none_is_refused(load: Load, given: str) -> None:
    with pytest.raises(ConfigError, match=r"`proxy\.workers` must be a whole number from 1 to 64"):
        load(f"{URI}proxy: {{workers: {given}}}")


@pytest.mark.parametrize("given", ["0", "65", "-1", "two", ""])
def test_so_it_is_on_the_command_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", f"--workers={given}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument --workers: must be a whole number from 1 to 64, it is '{given}'" in said
