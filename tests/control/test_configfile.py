"""What an accepted lb.yaml means."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.control.config_spelling import effective
from lbproxy.control.configfile import ConfigError, Loaded, load, loads
from lbproxy.core.config import (
    AccessLog,
    Address,
    Admin,
    Algorithm,
    Backend,
    BackendState,
    Balance,
    CheckType,
    Config,
    ForwardedFor,
    HealthCheck,
    Listener,
    Log,
    LogPoint,
    Mode,
    Pool,
    Tcp,
    Timeouts,
)

SEED = """\
listen: 0.0.0.0:8080
mode: http
backends: [10.0.1.10:8080, 10.0.1.11:8080, 10.0.1.12:8080]
"""

FULL = """\
listeners:
  - {bind: "0.0.0.0:6443", mode: tcp, pool: api}
pools:
  api:
    backends: [10.0.1.10:6443]
"""


def _v4(host: str, port: int) -> Address:
    return Address(f"{host}:{port}", host, port)


def test_smallest_file() -> None:
    backends = tuple(Backend(_v4(host, 8080)) for host in ("10.0.1.10", "10.0.1.11", "10.0.1.12"))
    assert loads(SEED).config == Config(
        listeners=(Listener("0.0.0.0:8080", (_v4("0.0.0.0", 8080),), Mode.HTTP, "default"),),
        pools=(Pool("default", backends, health_check=HealthCheck(type=CheckType.HTTP)),),
    )


def test_short_form_with_everything_beside_it() -> None:
    config = loads(
        SEED + "balance: least_conn\nhealth_check: {path: /healthz, expect: 200, interval: 500ms}\n"
        "timeouts: {connect: 2}\nworkers: 3\nadmin: {bind: off}\nlog: {access: off}\n"
    ).config
    (pool,) = config.pools
    assert pool.balance == Balance(Algorithm.LEAST_CONN)
    assert pool.health_check == HealthCheck(CheckType.HTTP, "/healthz", (200,), interval=0.5)
    assert config.listeners[0].timeouts == Timeouts(connect=2.0)
    assert (config.workers, config.admin, config.log) == (3, Admin(None), Log(access=None))


def test_file_is_named_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "lb.yaml"
    content = b"\xef\xbb\xbf" + SEED.encode()
    path.write_bytes(content)
    loaded = load(str(path))
    assert loaded == Loaded(loads(SEED).config, (), str(path), hashlib.sha256(content).hexdigest())


def test_both_forms_mean_the_same() -> None:
    full = "listeners: [{bind: 0.0.0.0:8080, mode: http, pool: default}]\npools: {default: {backends: [10.0.1.10:80]}}"
    assert loads(full).config == loads("listen: 0.0.0.0:8080\nmode: http\nbackends: [10.0.1.10:80]").config


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", Address("10.0.0.1:80", "10.0.0.1", 80, "inet")),
        ("'[::]:6443'", Address("[::]:6443", "::", 6443, "inet6")),
        ("'[FD00:0:0::1]:6443'", Address("[FD00:0:0::1]:6443", "fd00::1", 6443, "inet6")),
        ("unix:/run/api.sock", Address("unix:/run/api.sock", "/run/api.sock", 0, "unix")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    config = loads(f"listen: {text}\nmode: tcp\nbackends: [{{address: {text}}}]").config
    assert config.listeners[0].bind == (address,)
    assert config.listeners[0].name == address.text
    assert config.pools[0].backends == (Backend(address),)


def test_several_binds_and_listeners_to_one_pool() -> None:
    config = loads(
        "listeners:\n"
        "  - {name: api, bind: ['0.0.0.0:1', '[::]:1'], mode: tcp, pool: api}\n"
        "  - {bind: 0.0.0.0:2, mode: http, pool: api, max_connections: auto, freebind: off}\n"
        "pools: {api: {backends: [10.0.0.1:80]}}"
    ).config
    first, second = config.listeners
    assert (first.name, [str(address) for address in first.bind]) == ("api", ["0.0.0.0:1", "[::]:1"])
    assert (second.name, second.max_connections, second.freebind) == ("0.0.0.0:2", None, False)
    # tcp is enough for https: what a tcp listener passes through is TLS, to an apiserver.
    assert config.pools[0].health_check.type is CheckType.HTTPS


def test_timeouts_of_a_listener_override_single_ones() -> None:
    config = loads(
        "timeouts: {connect: 3s, idle: 1h}\n"
        "listeners:\n"
        "  - {bind: 0.0.0.0:1, mode: tcp, pool: api, timeouts: {idle: 0}}\n"
        "  - {bind: 0.0.0.0:2, mode: tcp, pool: api}\n"
        "pools: {api: {backends: [10.0.0.1:80]}}"
    ).config
    assert [listener.timeouts for listener in config.listeners] == [
        Timeouts(connect=3.0, idle=0.0),
        Timeouts(connect=3.0, idle=3600.0),
    ]


def test_backends_in_both_spellings() -> None:
    config = loads(
        "listen: 0.0.0.0:1\nmode: tcp\nbackends:\n"
        "  - 10.0.0.1:80\n"
        "  - {address: 10.0.0.2:80, weight: 3, max_connections: 7, max_fails: 0, fail_timeout: 1m, backup: yes}\n"
        "  - {address: 10.0.0.3:80, state: drain}\n"
    ).config
    assert config.pools[0].backends == (
        Backend(_v4("10.0.0.1", 80)),
        Backend(_v4("10.0.0.2", 80), 3, 7, 0, 60.0, True),
        Backend(_v4("10.0.0.3", 80), state=BackendState.DRAIN),
    )


@pytest.mark.parametrize(
    ("text", "balance"),
    [
        ("ip_hash", Balance(Algorithm.IP_HASH)),
        ("random_two", Balance(Algorithm.RANDOM_TWO)),
        ("{hash: uri}", Balance(Algorithm.HASH, "uri")),
        ("{consistent_hash: 'header:X-Remote-User'}", Balance(Algorithm.CONSISTENT_HASH, "header:X-Remote-User")),
    ],
)
def test_balance(text: str, balance: Balance) -> None:
    assert loads(SEED + f"balance: {text}").config.pools[0].balance == balance


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2.0), ("500ms", 0.5), ("700ms", 0.7), ("10m", 600.0), ("1h", 3600.0), ("1m30s", 90.0), ("3", 3.0),
     ("0.25", 0.25), ("1.5s", 1.5), ("1d", 86400.0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert loads(SEED + f"timeouts: {{keepalive: {text}}}").config.listeners[0].timeouts.keepalive == seconds


@pytest.mark.parametrize(("text", "size"), [("64KiB", 65536), ("2MiB", 2 << 20), ("1 GiB", 1 << 30), ("5000", 5000)])
def test_sizes(text: str, size: int) -> None:
    assert loads(SEED + f"http: {{max_header: {text}}}").config.http.max_header == size


@pytest.mark.parametrize(("text", "ratio"), [("20%", 0.2), ("0.5", 0.5), ("0", 0.0), ("100%", 1.0)])
def test_ratios(text: str, ratio: float) -> None:
    assert loads(SEED + f"health_check: {{jitter: {text}}}").config.pools[0].health_check.jitter == ratio


@pytest.mark.parametrize("text", ["off", "no", "false", "'off'", "OFF", "False"])
def test_booleans(text: str) -> None:
    assert loads(SEED + f"tcp: {{client: {{nodelay: {text}}}}}").config.tcp.client.nodelay is False


@pytest.mark.parametrize("text", ["off", "'off'"])
def test_off_is_a_word_where_no_boolean_is_meant(text: str) -> None:
    config = loads(SEED + f"http: {{forwarded_for: {text}}}\nadmin: {{bind: {text}}}\nlog: {{access: {text}}}").config
    assert (config.http.forwarded_for, config.admin.bind, config.log.access) == (ForwardedFor.OFF, None, None)


def test_one_side_of_tcp_keeps_its_own_defaults() -> None:
    tcp = loads(SEED + "tcp: {backend: {keepalive: {count: 9}}}").config.tcp
    assert tcp.client == Tcp().client
    assert (tcp.backend.user_timeout, tcp.backend.keepalive.idle, tcp.backend.keepalive.count) == (10.0, 5.0, 9)


def test_access_log() -> None:
    log = loads(SEED + "log: {access: {at: [open, close]}, level: debug}").config.log
    assert log == Log(AccessLog(at=(LogPoint.OPEN, LogPoint.CLOSE)), "debug")


def test_workers_auto_are_the_cores_we_may_use() -> None:
    assert loads(SEED + "workers: auto").config.workers == len(os.sched_getaffinity(0))


def test_aliases_and_merged_mappings() -> None:
    config = loads(
        "listen: 0.0.0.0:1\nmode: tcp\nbackends:\n"
        "  - &first {address: 10.0.0.1:80, weight: 5}\n"
        "  - {<<: *first, address: 10.0.0.2:80}\n"
    ).config
    assert [(str(backend.address), backend.weight) for backend in config.pools[0].backends] == [
        ("10.0.0.1:80", 5),
        ("10.0.0.2:80", 5),
    ]


@pytest.mark.parametrize("text", ["2024-01-01", "'10'", "on-call", "010"])
def test_text_that_other_readers_would_take_for_something_else(text: str) -> None:
    config = loads(FULL.replace("pool: api", f"pool: api, name: {text}")).config
    assert config.listeners[0].name == text.strip("'")


@pytest.mark.parametrize("section", ["timeouts", "tcp", "log", "health_check", "shutdown", "admin", "http"])
def test_a_section_with_all_its_lines_commented_out(section: str) -> None:
    assert loads(SEED + f"{section}:\n  # nothing: 3\n").config == loads(SEED).config


def test_an_empty_access_log_section_does_not_turn_it_off() -> None:
    assert loads(SEED + "log:\n  access:\n    # at: [open]\n").config.log == Log()


@pytest.mark.parametrize("name", ["lb.example", "kubernetes.default.svc", "10.0.0.1", "a" * 63, "_x.y"])
def test_server_names(name: str) -> None:
    assert loads(SEED + f"health_check: {{server_name: {name}}}").config.pools[0].health_check.server_name == name


def test_files_are_found_beside_the_configuration(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    authority.issue_cert("lb.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    (tmp_path / "token").write_text("secret")
    (tmp_path / "lb.yaml").write_text(
        SEED + "health_check: {type: https, ca_file: ca.crt, client_cert: client.pem, token_file: ./token}"
    )
    loaded = load(str(tmp_path / "lb.yaml"))
    check = loaded.config.pools[0].health_check
    assert (check.ca_file, check.client_cert) == (f"{tmp_path}/ca.crt", f"{tmp_path}/client.pem")
    assert check.token_file is not None
    assert Path(check.token_file).read_text() == "secret"
    assert loads(effective(loaded.config), "/elsewhere/lb.yaml").config == loaded.config


def test_a_thousand_backends_load_quickly() -> None:
    lines = [f"  - {{address: 10.0.{n // 250}.{n % 250}:6443, weight: {n + 1}}}" for n in range(1000)]
    text = "listen: 0.0.0.0:1\nmode: tcp\nbackends:\n" + "\n".join(lines)
    start = time.process_time()
    config = loads(text).config
    assert len(config.pools[0].backends) == 1000
    assert time.process_time() - start < 5.0


# -- properties ------------------------------------------------------------------------------------------------

_words = st.sampled_from(
    ["listen", "mode", "backends", "balance", "health_check", "listeners", "pools", "bind", "pool", "name", "tcp",
     "http", "api", "10.0.0.1:80", "[::1]:80", "0.0.0.0:80", "off", "auto", "hash", "uri", "address", "weight",
     "timeouts", "connect", "2s", "log", "access", "admin", "workers", "client_cert", "backup", "ip_hash", "<<", ""]
)  # fmt: skip
_scalars = st.one_of(
    _words, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4)
)
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


def _accepted_or_refused(text: str) -> Loaded | None:
    try:
        return loads(text)
    except ConfigError as refused:
        problems = refused.problems
    assert problems
    assert all(problem.message and problem.line >= 1 for problem in problems)
    assert "\n" not in "".join(problem.message for problem in problems)
    return None


@given(_values)
def test_any_structure_is_accepted_or_refused(value: Any) -> None:
    _accepted_or_refused(yaml.safe_dump(value, allow_unicode=True))


@given(st.text(alphabet=st.sampled_from("abl: -[]{}&*!|>'\"%@`#,\n\t0123.\x00é\ud800"), max_size=60))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    _accepted_or_refused(text)


@given(st.data())
def test_a_spoilt_configuration_is_accepted_or_refused(data: st.DataObject) -> None:
    """One value anywhere in a good file is replaced by any other."""
    tree = yaml.safe_load(effective(loads(SEED + "balance: {hash: uri}").config))
    node: Any = tree
    for _ in range(data.draw(st.integers(0, 6))):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(node[key], dict | list):
            break
        node = node[key]
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if keys:
        node[data.draw(st.sampled_from(keys))] = data.draw(_values)
    loaded = _accepted_or_refused(yaml.safe_dump(tree))
    if loaded is not None:
        assert loads(effective(loaded.config)).config == loaded.config


_durations = st.floats(0.01, 1e6) | st.integers(1, 100000).map(float)
_whole = st.integers(1, 32767).map(float)


@given(
    st.builds(
        lambda mode, bind, timeouts, pool, tcp, http, admin, log: Config(
            (Listener("a", bind, mode, pool.name, timeouts=timeouts),),
            (pool,),
            tcp=tcp,
            http=http,
            admin=admin,
            log=log,
        ),
        st.just(Mode.HTTP),
        st.lists(st.integers(1, 9000), min_size=1, max_size=3, unique=True).map(
            lambda ports: tuple(_v4("10.0.0.9", port) for port in ports)
        ),
        st.builds(Timeouts, *[_durations] * 6),
        st.builds(
            lambda name, ports, weight, state, timeout, balance, interval, jitter: Pool(
                name,
                tuple(Backend(_v4("10.0.0.1", port), weight, 3, 2, timeout, state=state) for port in ports),
                balance,
                HealthCheck(CheckType.TCP, interval=interval, jitter=jitter),
            ),
            st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
            st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True),
            st.integers(1, 65535),
            st.sampled_from(BackendState),
            _whole,
            st.sampled_from([Balance(), Balance(Algorithm.HASH, "header:X"), Balance(Algorithm.FIRST)]),
            _durations,
            st.floats(0, 1),
        ),
        st.just(Tcp()),
        st.sampled_from([loads(SEED + "http: {host: backend, max_body: 3}").config.http]),
        st.sampled_from([Admin(None), Admin()]),
        st.sampled_from([Log(None), Log(AccessLog(at=(LogPoint.OPEN,)), "error")]),
    )
)
def test_effective_configuration_means_the_same(config: Config) -> None:
    assert loads(effective(config)).config == config
