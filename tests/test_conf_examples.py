"""The files under conf/ and the reference say what the model says."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.control.config_host import Host
from lbproxy.control.config_keys import keys_of, sections
from lbproxy.control.config_model import json_schema
from lbproxy.control.config_reference import renewed, schema
from lbproxy.control.config_spelling import effective, spell
from lbproxy.control.configfile import ConfigError, load, loads
from lbproxy.core.config import Address, Algorithm, Backend, CheckType, Config, HealthCheck, Listener, Mode, Pool

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "conf" / "lb.yaml"
HOST = Host(max_fds=65536, somaxconn=4096, cores=4)
EXAMPLES = sorted((ROOT / "conf").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_accepted_without_a_warning(path: Path) -> None:
    """But for the CA, a file that only the operator can name."""
    found = loads(path.read_text(), str(path), HOST).warnings
    assert all("health_check.ca_file: the check verifies no certificate" in str(one) for one in found)
    assert len(found) == (0 if path.name == "apiserver-http.yaml" else 1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_tell_editors_their_schema(path: Path) -> None:
    """The YAML language server, and with it most editors, looks for this line."""
    words = [line for line in path.read_text().splitlines() if line.startswith("# yaml-language-server:")]
    assert words == ["# yaml-language-server: $schema=lb.schema.json"]
    assert path.read_text().startswith(words[0])
    assert json.loads((path.parent / "lb.schema.json").read_text())["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_follow_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_effective_configuration_means_the_same(path: Path) -> None:
    config = load(str(path)).config
    assert loads(effective(config)).config == config


def test_reference_means_the_defaults() -> None:
    backends = tuple(Backend(_address(host, 6443)) for host in ("10.0.1.10", "10.0.1.11", "10.0.1.12"))
    assert load(str(REFERENCE)).config == Config(
        listeners=(Listener("apiserver", (_address("0.0.0.0", 6443),), Mode.TCP, "apiservers"),),
        pools=(Pool("apiservers", backends, health_check=HealthCheck(CheckType.HTTPS)),),
    )


def test_reference_has_every_key_with_a_comment() -> None:
    tree = yaml.safe_load(REFERENCE.read_text())
    for place in sections():
        section = _at(tree, place.name)
        assert set(section) == {key.name for key in keys_of(place.section)}, place.name
    lines = REFERENCE.read_text().splitlines()
    names = {key.name for place in sections() for key in keys_of(place.section) if not key.section}
    for before, line in itertools.pairwise(lines):
        key = line.strip().removeprefix("- ").partition(":")[0]
        if key in names and not line.startswith("#") and not line.endswith(":"):
            assert " # " in line or before.strip().startswith("# "), line


def test_reference_has_every_value_at_its_default() -> None:
    tree = yaml.safe_load(REFERENCE.read_text())
    for place in sections():
        for key in keys_of(place.section):
            default = place.default(key)
            if not key.required and not key.otherwise and not key.section:
                assert _at(tree, place.name)[key.name] == spell(key, default), f"{place.name}.{key.name}"


def test_tcp_example() -> None:
    config = load(str(ROOT / "conf" / "apiserver-tcp.yaml")).config
    (listener,), (pool,) = config.listeners, config.pools
    assert (listener.mode, listener.bind[0].port) == (Mode.TCP, 6443)
    assert pool.balance.algorithm is Algorithm.LEAST_CONN
    assert (pool.health_check.type, pool.health_check.path) == (CheckType.HTTPS, "/readyz")


def test_http_example_is_three_lines() -> None:
    path = ROOT / "conf" / "apiserver-http.yaml"
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == 3
    config = load(str(path)).config
    assert (config.listeners[0].mode, str(config.listeners[0].bind[0])) == (Mode.HTTP, "0.0.0.0:8080")


def test_schema_is_current() -> None:
    assert (ROOT / "conf" / "lb.schema.json").read_text() == schema()


def test_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == renewed(page)


def test_yaml_of_the_reference_page_is_accepted() -> None:
    blocks = (ROOT / "docs" / "configuration.md").read_text().split("```yaml\n")[1:]
    assert len(blocks) >= 2
    for block in blocks:
        found = loads(block.partition("```")[0], host=HOST).warnings
        assert all("ca_file: the check verifies no certificate" in str(one) for one in found)


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_every_key_is_described_in_the_schema() -> None:
    for name, definition in json_schema()["$defs"].items():
        for key, value in definition["properties"].items():
            assert value.get("description"), f"{name}.{key}"


@st.composite
def _changed_reference(draw: st.DrawFn) -> dict[str, Any]:
    """The reference with some values replaced by others of many shapes, or removed."""
    tree: dict[str, Any] = yaml.safe_load(REFERENCE.read_text())
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_leaves(tree))))
        if draw(st.booleans()) and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = copy.deepcopy(draw(_values))  # the next round may change what is inside of it
    return tree


_values = st.one_of(
    st.sampled_from([None, True, False, "on", "off", "auto", "tcp", "http", "none", [], {}, [200], {"hash": "uri"}]),
    st.sampled_from(["2s", "500ms", "1m30s", "1h", "64KiB", "20%", "10.0.0.1:80", "[::1]:80", "unix:/run/x", "2x", ""]),
    st.integers(-2, 70000),
    st.floats(-1, 10),
)


def _leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list) and value:
            yield from _leaves(value)
        yield node, key


@given(_changed_reference())
def test_schema_is_no_stricter_than_the_loader(tree: dict[str, Any]) -> None:
    """An editor must not mark as wrong what works. (The loader knows more: what the schema allows may be refused.)"""
    try:
        loads(yaml.safe_dump(tree))
    except ConfigError:
        return
    _VALIDATOR.validate(tree)


_VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def _address(host: str, port: int) -> Address:
    return Address(f"{host}:{port}", host, port)


def _at(tree: Any, place: str) -> Any:
    """The section at a place such as pools.NAME.backends[]; of a list the element that is spelt out."""
    for step in place.split(".") if place else []:
        if step == "NAME":
            (tree,) = tree.values()
        else:
            tree = tree[step.removesuffix("[]")]
        if step.endswith("[]"):
            (tree,) = (item for item in tree if isinstance(item, dict))
    return tree
