"""Who takes part, and with which configuration.

All do the same work: one worker, the same listen backlog, round robin over the same three backends, TCP_NODELAY, no
access log, no idle timeout that a run could meet. In http mode all keep connections to the backends open, pass the
client's Host on and add X-Forwarded-For, -Proto and -Host, because that is what lbproxy does unasked. nginx and HAProxy
are tuned beyond their defaults; what was chosen stands in the comments. Settings that trade memory or small answers for
bulk (nginx's 64 KiB buffers per connection, HAProxy's splicing) are contenders of their own in the bulk scenarios.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scenarios import Mode

BACKLOG = 4096
FAMILIES = (  # in the order of the table
    "direct", "lbproxy", "nginx", "nginx-64k", "nginx-seed", "nginx-kubespray", "haproxy", "haproxy-splice"
)  # fmt: skip
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs."""

    directory: Path
    port: int
    backends: Sequence[int]  # ports on 127.0.0.1
    workers: int = 1
    log: bool = False  # an access log, one JSON line per request or tcp connection
    admin: int = 0  # the port of lbproxy's admin endpoint


@dataclass(frozen=True, slots=True)
class Contender:
    """`command` is what to start, with {config} in the place of the configuration file; none: no process at all."""

    name: str
    family: str  # the row of the table; --contenders takes either
    mode: Mode
    configure: Callable[[Place], str]
    command: tuple[str, ...] = ()
    bulk_only: bool = False
    small_only: bool = False


def contenders(lbproxy: Sequence[str] = (sys.executable, "-m", "lbproxy")) -> tuple[Contender, ...]:
    """Everyone, in the order of the table. `lbproxy` is the command that runs it, without `-c FILE`."""
    ours = (*lbproxy, "-c", "{config}")
    nginx = ("nginx", "-e", "stderr", "-c", "{config}")
    haproxy = ("haproxy", "-db", "-f", "{config}")
    return (
        Contender("direct-tcp", "direct", Mode.TCP, _nothing),
        Contender("lbproxy-tcp", "lbproxy", Mode.TCP, _lbproxy_tcp, ours),
        Contender("nginx-stream", "nginx", Mode.TCP, _nginx_stream, nginx),
        Contender("nginx-stream-64k", "nginx-64k", Mode.TCP, _nginx_stream_64k, nginx, bulk_only=True),
        Contender("nginx-kubespray", "nginx-kubespray", Mode.TCP, _nginx_kubespray, nginx, small_only=True),
        Contender("haproxy-tcp", "haproxy", Mode.TCP, _haproxy_tcp, haproxy),
        Contender("haproxy-tcp-splice", "haproxy-splice", Mode.TCP, _haproxy_tcp_splice, haproxy, bulk_only=True),
        Contender("direct-http", "direct", Mode.HTTP, _nothing),
        Contender("lbproxy-http", "lbproxy", Mode.HTTP, _lbproxy_http, ours),
        Contender("nginx-http", "nginx", Mode.HTTP, _nginx_http, nginx),
        Contender("nginx-http-64k", "nginx-64k", Mode.HTTP, _nginx_http_64k, nginx, bulk_only=True),
        Contender("nginx-seed", "nginx-seed", Mode.HTTP, _nginx_seed, nginx, small_only=True),
        Contender("haproxy-http", "haproxy", Mode.HTTP, _haproxy_http, haproxy),
        Contender("haproxy-http-splice", "haproxy-splice", Mode.HTTP, _haproxy_http_splice, haproxy, bulk_only=True),
    )


def nginx_preamble(place: Place) -> str:
    """What every nginx here needs to run in the foreground and to keep its files in one directory."""
    module = f"load_module {STREAM_MODULE};\n" if STREAM_MODULE.exists() else ""
    # Started by root, a worker becomes `nobody`, who may not enter a temporary directory.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    return (
        f"{module}{user}daemon off;\nworker_processes {place.workers};\npid {place.directory}/nginx-{place.port}.pid;\n"
        f"worker_rlimit_nofile {open_files()};\nevents {{ worker_connections {open_files()}; }}\n"
    )


def open_files() -> int:
    """How many descriptors a process may have: all get the same."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536)


def _nothing(_place: Place) -> str:
    return ""


def _lbproxy_tcp(place: Place) -> str:
    return _lbproxy(place, Mode.TCP)


def _lbproxy_http(place: Place) -> str:
    return _lbproxy(place, Mode.HTTP)


def _lbproxy(place: Place, mode: Mode) -> str:
    # Checks and the admin endpoint are on, as they are unasked: their cost is part of the balancer's.
    return f"""\
workers: {place.workers}
listeners:
  - {{name: bench, bind: "127.0.0.1:{place.port}", mode: {mode.value}, pool: backends, backlog: {BACKLOG}}}
pools:
  backends:
    balance: round_robin
    backends: [{", ".join(f'"127.0.0.1:{port}"' for port in place.backends)}]
    health_check: {{type: http, path: /readyz, interval: 2s}}
admin: {{bind: "127.0.0.1:{place.admin}", socket: {place.directory}/{place.port}.sock}}
log: {{access: {"{format: json}" if place.log else "off"}}}
"""


def _nginx_stream(place: Place) -> str:
    return _nginx_stream_with(place, "")


def _nginx_stream_64k(place: Place) -> str:
    return _nginx_stream_with(place, "proxy_buffer_size 64k;")


def _nginx_stream_with(place: Place, buffers: str) -> str:
    return f"""\
{nginx_preamble(place)}
stream {{
  {_NGINX_STREAM_LOG.replace("FILE", f"{place.directory}/access.log") if place.log else ""}
  upstream backends {{ {_nginx_servers(place)} }}
  server {{
    listen 127.0.0.1:{place.port} backlog={BACKLOG};
    proxy_pass backends;
    proxy_connect_timeout 1s;
    proxy_timeout 1h;
    tcp_nodelay on;
    {buffers}
  }}
}}
"""


def _nginx_http(place: Place) -> str:
    return _nginx_http_with(place, "")


def _nginx_http_64k(place: Place) -> str:
    return _nginx_http_with(place, "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;")


def _nginx_http_with(place: Place, buffers: str) -> str:
    # nginx before 1.29.7 speaks HTTP/1.0 to backends and closes each connection unless told otherwise: beating that
    # would prove nothing. Buffering is off because watches need it off.
    return f"""\
{nginx_preamble(place)}
http {{
  {_NGINX_LOG.replace("FILE", f"{place.directory}/access.log") if place.log else "access_log off;"}
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  upstream backends {{ {_nginx_servers(place)} keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog={BACKLOG};
    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_buffering off;
      {buffers}
      proxy_connect_timeout 1s;
      proxy_read_timeout 1h;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
    }}
  }}
}}
"""


# What lbproxy's line says, as far as nginx knows it; buffered, as nobody who counts CPU would leave it.
_NGINX_LOG = """log_format json escape=json '{"ts":"$time_iso8601",'
    '"client":"$remote_addr","client_port":"$remote_port","method":"$request_method","target":"$request_uri","status":$status,"backend":"$upstream_addr",'
    '"duration_s":$request_time,"bytes_in":$request_length,"bytes_out":$bytes_sent}';
  access_log FILE json buffer=64k flush=1s;"""

_NGINX_STREAM_LOG = """log_format json escape=json '{"ts":"$time_iso8601",'
    '"client":"$remote_addr","client_port":"$remote_port","status":$status,"backend":"$upstream_addr",'
    '"duration_s":$session_time,"bytes_in":$bytes_received,"bytes_out":$bytes_sent}';
  access_log FILE json buffer=64k flush=1s;"""


def _nginx_seed(place: Place) -> str:
    """The block that lbproxy was made to stand in for, as it was written: HTTP/1.0 and a connection per request."""
    servers = "\n".join(f"    server 127.0.0.1:{port};" for port in place.backends)
    return f"""\
{nginx_preamble(place)}
http {{
  access_log off;
  upstream backend {{
    #ip_hash;
{servers}
  }}
  server {{
    listen 127.0.0.1:{place.port};
    location / {{
      proxy_pass http://backend;
    }}
  }}
}}
"""


def _nginx_kubespray(place: Place) -> str:
    """nginx as kubespray puts it on every node, in front of the apiservers."""
    return f"""\
{nginx_preamble(place)}
stream {{
  upstream kube_apiserver {{
    least_conn;
    {_nginx_servers(place)}
  }}
  server {{
    listen 127.0.0.1:{place.port};
    proxy_pass kube_apiserver;
    proxy_timeout 10m;
    proxy_connect_timeout 1s;
  }}
}}
"""


def _nginx_servers(place: Place) -> str:
    return " ".join(f"server 127.0.0.1:{port};" for port in place.backends)


def _haproxy_tcp(place: Place) -> str:
    return _haproxy(place, "mode tcp")


def _haproxy_tcp_splice(place: Place) -> str:
    return _haproxy(place, "mode tcp", "option splice-auto")


def _haproxy_http(place: Place) -> str:
    return _haproxy(place, *_HAPROXY_HTTP)


def _haproxy_http_splice(place: Place) -> str:
    return _haproxy(place, *_HAPROXY_HTTP, "option splice-auto")


_HAPROXY_HTTP = (
    "mode http",
    "http-reuse always",
    "option forwardfor",
    "option http-no-delay",  # or the kernel holds the head of a watch back for 200 ms, should an event follow
    "option idle-close-on-response",  # a reload does not close a kept connection under a request that is on its way
    "http-request set-header X-Forwarded-Proto http",
    "http-request set-header X-Forwarded-Host %[req.hdr(Host)]",
)


_HAPROXY_LOG = (
    r"{\"ts\":\"%tr\",\"client\":\"%ci\",\"client_port\":%cp,\"request\":\"%HM\ %HU\",\"status\":%ST,"
    r"\"backend\":\"%s\",\"duration_ms\":%Ta,\"bytes_in\":%U,\"bytes_out\":%B,\"end\":\"%ts\"}"
)


_HAPROXY_TCP_LOG = (
    r"{\"ts\":\"%t\",\"client\":\"%ci\",\"client_port\":%cp,\"backend\":\"%s\",\"duration_ms\":%Tt,"
    r"\"bytes_in\":%U,\"bytes_out\":%B,\"end\":\"%ts\"}"
)


def _haproxy(place: Place, *lines: str) -> str:
    log = "  log stdout format raw daemon\n" if place.log else ""
    line = _HAPROXY_LOG if "mode http" in lines else _HAPROXY_TCP_LOG
    lines = (*lines, "log global", f"log-format {line}") if place.log else lines
    ours = "".join(f"  {line}\n" for line in lines)
    servers = "".join(f"  server s{port} 127.0.0.1:{port} check inter 2s\n" for port in place.backends)
    return f"""\
global
  nbthread {place.workers}
  maxconn {open_files() // 2 - 100}
  maxpipes 50
{log}defaults
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout http-request 1m
  timeout http-keep-alive 1h
  timeout check 5s
listen bench
  bind 127.0.0.1:{place.port} backlog {BACKLOG}
  balance roundrobin
  option httpchk GET /readyz
{ours}{servers}"""
