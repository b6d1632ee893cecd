from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.config import ConfigError, load_config
from proxy.config.formats import MAX_BYTES, read_document
from proxy.config.interpolation import interpolate
from proxy.config.problems import Findings
from tests.unit.config.conftest import Load

ENV = {"A": "alpha", "B": "beta", "EMPTY": "", "D": "$ {A} ${A}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k: ${A}", "k: alpha"),
        ("k: ${  A  }", "k: alpha"),
        ("k: ${A:-zeta}", "k: alpha"),
        ("k: ${X:-zeta}", "k: zeta"),
        ("k: ${  X  :-  s3://b/m  }", "k: s3://b/m"),
        ("k: ${A}/${X:-i}#${B}s", "k: alpha/i#betas"),
        ("k: ${X:-1} ${X:-2}", "k: 1 2"),
        ("k: ${EMPTY:-zeta}", "k: "),
        ("k: $A {A} $${A}", "k: $A {A} $alpha"),
        ("k: ${D}", "k: $ {A} ${A}"),
        ("# ${NOPE}", "# ${NOPE}"),
        ("  \t# ${NOPE}\nk: ${A}", "  \t# ${NOPE}\nk: alpha"),
    ],
)
def test_interpolation(text: str, expected: str) -> None:
    findings = Findings()
    assert interpolate(text, ENV, findings) == expected
    assert (findings.errors, findings.warnings) == ([], [])


def test_unset_variables_are_all_named_with_their_line(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("cluster_id: ${NOPE}\nnode_id: ${NEITHER}")
    first, second = caught.value.problems
    assert first == (
        "line 2: environment variable `NOPE` is not set and has no default: "
        "set it, or write `${NOPE:-default}`"
    )
    assert "`NEITHER`" in second
    assert "node.yaml" in str(caught.value)


def test_a_variable_after_a_comment_on_the_same_line_is_still_replaced() -> None:
    findings = Findings()
    interpolate("k: 1 # ${NOPE}", {}, findings)
    assert "`NOPE`" in findings.errors[0]


@pytest.mark.parametrize("reference", ["${A:-}", "${A-}", "${A:x}", "${A:}"])
def test_a_near_miss_is_taken_literally_with_a_warning(reference: str) -> None:
    findings = Findings()
    assert interpolate(f"k: {reference}", ENV, findings) == f"k: {reference}"
    assert findings.warnings[0].startswith("line 1: the reference to `A` is taken literally")


FORMATS = {
    "c.yaml": "version: 0.8\nenabled_services: [metastore]\nrest: {listen_port: 1}\n",
    "c.yml": "version: '0.8'\nenabled_services:\n- metastore\nrest:\n  listen_port: 1\n",
    "c.json": '// x\n{"version": "0.8", # y\n/* "a": \n */ "enabled_services": ["metastore"],'
    '\n "rest": {"listen_port": 1}}',
    "c.toml": 'version = "0.8"\nenabled_services = ["metastore"]\n[rest]\nlisten_port = 1\n',
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(load: Load, name: str) -> None:
    environ = {"QW_METASTORE_URI": "postgresql://h/d"}
    config = load(FORMATS[name], bare=True, name=name, environ=environ)
    assert (config.rest_listen_port, config.enabled_services) == (1, ("metastore",))


def test_json_comment_signs_inside_strings_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"a": "x//y # z /* w */ \\" // v"}')
    assert read_document(path, {}, Findings()) == {"a": 'x//y # z /* w */ " // v'}


SYNTAX = [
    ("c.yaml", "a: 1\nb: [1\n", "line 3, column 1: "),
    ("c.yaml", "a: 1\na: 2\n", "line 2: the key `a` is given twice: remove one"),
    ("c.yaml", "a:\n  b: 1\n  c: 1\n  b: 2\n", "line 4: the key `b` is given twice"),
    ("c.yaml", "a: 1\n---\nb: 1\n", "expected a single document"),
    ("c.yaml", "? [a]\n: 1\n", "line 1: a key must be a plain name"),
    ("c.yaml", "- a\n", "must be a mapping of keys to values, it is a list of 1 items"),
    ("c.yaml", "hello", "it is a string of 5 characters"),
    ("c.yaml", "", "it is empty"),
    ("c.yaml", "# nothing\n", "it is empty"),
    ("c.yaml", "a: \x01", "a control character"),
    ("c.yaml", "a: !!python/object:os.system x", "could not determine a constructor"),
    ("c.yaml", "a: " + "9" * 5000, "a number is too large"),
    ("c.yaml", "a: " + "[" * 3000, "nested too deeply"),
    ("c.yaml", "a: !!int x", "does not fit its tag"),
    ("c.yaml", "version: 0.8\nmetastore_uri: !!binary eA==", "it is a bytes"),
    ("c.json", '{"a": 1,\n "a": 2}', "the key `a` is given twice"),
    ("c.json", '{"a": 1,\n "b" 2}', "line 2, column 6: expecting ':' delimiter"),
    ("c.json", "[1]", "it is a list of 1 items"),
    ("c.json", "", "line 1, column 1: expecting value"),
    ("c.json", '{"a": ' + "9" * 5000 + "}", "a number is too large"),
    ("c.toml", "a = 1\na = 2\n", "line 2, column 6: cannot overwrite a value"),
    ("c.toml", "a = \n", "line 1, column 5: invalid value"),
    ("c.toml", "a = " + "9" * 5000, "a number is too large"),
    ("c.ini", "a = 1", "the extension names the format: use .yaml, .yml, .json or .toml"),
    ("c", "a: 1", "the extension names the format"),
]


@pytest.mark.parametrize(("name", "text", "expected"), SYNTAX)
def test_syntax_error(load: Load, name: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, bare=True, name=name)
    assert expected.lower() in str(caught.value).lower()
    assert name in str(caught.value)


LEAKS = [
    ("c.yaml", "metastore_uri: *hunter2hunter2"),
    ("c.yaml", "metastore_uri: !hunter2hunter2 x"),
    ("c.yaml", 'metastore_uri: "hunter2hunter2'),
    ("c.yaml", "metastore_uri: a: hunter2hunter2"),
    ("c.yaml", "postgres://u:hunter2hunter2@h/d: 1\npostgres://u:hunter2hunter2@h/d: 1"),
    ("c.yaml", "version: hunter2hunter2"),
    ("c.yaml", "metastore_uri: [hunter2hunter2]"),
    ("c.yaml", "hunter2hunter2"),
    ("c.json", '{"a": "hunter2hunter2}'),
    ("c.json", '{"a": hunter2hunter2}'),
    ("c.toml", "a = hunter2hunter2"),
    ("c.toml", 'a = "hunter2hunter2'),
]


@pytest.mark.parametrize(("name", "text"), LEAKS)
def test_errors_do_not_quote_the_file(load: Load, name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, bare=True, name=name)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!s} {error!r}"
        error = error.__cause__ or error.__context__


def test_yaml_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "a: 0\nb: no\nc: 2024-01-01\nd: 10:30\ne: 010\nf: 0o17\ng: 0x1F\nh: 1e3\ni: TRUE\n"
        "j: ~\nk: -5\nl: .5\nm: on\nn: 0.8\no: '7'\np:\n"
    )
    assert read_document(path, {}, Findings()) == {
        "a": 0,
        "b": "no",
        "c": "2024-01-01",
        "d": "10:30",
        "e": "010",
        "f": 15,
        "g": 31,
        "h": 1000.0,
        "i": True,
        "j": None,
        "k": -5,
        "l": 0.5,
        "m": "on",
        "n": 0.8,
        "o": "7",
        "p": None,
    }


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {x: 1, y: 2}\none: *b\ntwo:\n  <<: *b\n  y: 3\nthree:\n  <<: *b\n")
    document = read_document(path, {}, Findings())
    assert document["one"] == document["three"] == {"x": 1, "y": 2}
    assert document["two"] == {"x": 1, "y": 3}


def test_a_recursive_anchor_is_harmless(load: Load) -> None:
    with pytest.raises(ConfigError, match="`proxy` has no key `self`"):
        load("proxy: &p\n  self: *p")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml`: the file cannot be read: no such file"):
        load_config(tmp_path / "nope.yaml", environ={})


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load_config(tmp_path / "d.yaml", environ={})


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"version: 0.8\nnode_id: \xff\xfe\n")
    with pytest.raises(ConfigError, match="line 2: the file is not UTF-8 text"):
        load_config(path, environ={})


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 0.8\n")
    assert read_document(path, {}, Findings()) == {"version": 0.8}


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        load_config(path, environ={})
    os.truncate(path, MAX_BYTES)
    with pytest.raises(ConfigError, match="it is empty"):
        load_config(path, environ={})
