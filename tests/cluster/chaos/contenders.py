"""The balancers, each as its operators configure it, at the same address in front of the same masters.

tcp contenders stand before the masters' own ports, http contenders before their doors. Sources of the configurations:
nginx-stream is kubespray's on every node; haproxy-tcp is that of kubeadm's guide to high availability (with the guide's
35 s and its /healthz); haproxy-openshift is OpenShift's for its masters. nginx and haproxy-http are what one writes
who knows what a watch is: HTTP/1.1 and kept connections to the masters, no buffering, no short timeouts, the next
master asked where that is safe.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.balancer import until
from tests.cluster.control_plane import BALANCER_HTTP, BALANCER_TLS, MASTERS

ADMIN = "127.0.0.1:19180"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
STOP_TIMEOUT = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class Contender:
    """`command` has {config} in the place of the configuration's path."""

    name: str
    configure: Callable[[Path], str]
    command: tuple[str, ...]
    http: bool

    @property
    def front(self) -> str:
        return f"http://{BALANCER_HTTP}" if self.http else f"https://{BALANCER_TLS}"


def contenders() -> dict[str, Contender]:
    ours = (sys.executable, "-m", "lbproxy", "-c", "{config}")
    nginx = ("nginx", "-e", "stderr", "-c", "{config}")
    haproxy = ("haproxy", "-db", "-f", "{config}")
    every = (
        Contender("lbproxy-http", _lbproxy_http, ours, http=True),
        Contender("lbproxy-tcp", _lbproxy_tcp, ours, http=False),
        Contender("nginx", _nginx, nginx, http=True),
        Contender("nginx-stream", _nginx_stream, nginx, http=False),
        Contender("haproxy-http", _haproxy_http, haproxy, http=True),
        Contender("haproxy-tcp", _haproxy_kubeadm, haproxy, http=False),
        Contender("haproxy-openshift", _haproxy_openshift, haproxy, http=False),
    )
    return {one.name: one for one in every}


@contextmanager
def running(contender: Contender, directory: Path, answers: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once clients get answers through it. Raises TimeoutError with its log."""
    config, log = directory / f"{contender.name}.conf", directory / f"{contender.name}.log"
    config.write_text(contender.configure(directory))
    command = [part.format(config=config) for part in contender.command]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(answers, f"{contender.name} answers: {log.read_text()[-2000:]}", 20)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- lbproxy: what stands in conf/, and nothing more -----------------------------------------------------------------


def _lbproxy_http(_directory: Path) -> str:
    return f"""
listeners: [{{name: api, bind: "{BALANCER_HTTP}", mode: http, pool: apiservers}}]
pools:
  apiservers:
    backends: [{", ".join(f'"{host}:8080"' for host in MASTERS)}]
admin: {{bind: "{ADMIN}"}}
"""


def _lbproxy_tcp(_directory: Path) -> str:
    return f"""
listeners: [{{name: api, bind: "{BALANCER_TLS}", mode: tcp, pool: apiservers}}]
pools:
  apiservers:
    balance: least_conn
    backends: [{", ".join(f'"{host}:6443"' for host in MASTERS)}]
admin: {{bind: "{ADMIN}"}}
"""


# -- nginx -----------------------------------------------------------------------------------------------------------


def _nginx_main(directory: Path) -> str:
    module = f"load_module {STREAM_MODULE};\n" if STREAM_MODULE.exists() else ""
    user = "user root root;\n" if os.geteuid() == 0 else ""  # `nobody` may not enter a temporary directory
    return (
        f"{module}{user}daemon off;\npid {directory}/nginx.pid;\nworker_processes 2;\nworker_shutdown_timeout 10s;\n"
        "error_log stderr notice;\nevents { worker_connections 16384; }\n"
    )


def _nginx(directory: Path) -> str:
    return f"""{_nginx_main(directory)}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  map $http_upgrade $connection_header {{ default upgrade; "" ""; }}
  upstream apiservers {{ {" ".join(f"server {host}:8080;" for host in MASTERS)} keepalive 32; }}
  server {{
    listen {BALANCER_HTTP};
    client_max_body_size 0;
    location / {{
      proxy_pass http://apiservers;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_header;
      proxy_buffering off;
      proxy_connect_timeout 1s;
      proxy_read_timeout 1h;
      proxy_next_upstream error timeout http_502 http_503 http_504;
    }}
  }}
}}
"""


def _nginx_stream(directory: Path) -> str:
    return f"""{_nginx_main(directory)}
stream {{
  upstream kube_apiserver {{ least_conn; {" ".join(f"server {host}:6443;" for host in MASTERS)} }}
  server {{
    listen {BALANCER_TLS};
    proxy_pass kube_apiserver;
    proxy_timeout 10m;
    proxy_connect_timeout 1s;
  }}
}}
"""


# -- HAProxy ---------------------------------------------------------------------------------------------------------


def _servers(port: int, options: str) -> str:
    return "\n".join(f"  server master{number} {host}:{port} {options}" for number, host in enumerate(MASTERS))


def _haproxy_kubeadm(_directory: Path) -> str:
    return f"""
global
  log stdout format raw local0
defaults
  mode http
  log global
  option dontlognull
  option http-server-close
  option redispatch
  retries 1
  timeout http-request 10s
  timeout queue 20s
  timeout connect 5s
  timeout client 35s
  timeout server 35s
  timeout http-keep-alive 10s
  timeout check 10s
frontend apiserver
  bind {BALANCER_TLS}
  mode tcp
  default_backend apiserverbackend
backend apiserverbackend
  mode tcp
  balance roundrobin
  option httpchk
  http-check connect ssl
  http-check send meth GET uri /healthz
  http-check expect status 200
{_servers(6443, "check verify none")}
"""


def _haproxy_openshift(_directory: Path) -> str:
    return f"""
global
  log stdout format raw local0
defaults
  maxconn 20000
  mode tcp
  log global
  option dontlognull
  retries 3
  timeout http-request 30s
  timeout queue 1m
  timeout connect 10s
  timeout client 1m
  timeout server 1m
  timeout tunnel 5m
  timeout client-fin 1s
  timeout server-fin 1s
  timeout http-keep-alive 30s
  timeout check 10s
frontend main
  bind {BALANCER_TLS}
  default_backend masters
backend masters
  option httpchk GET /readyz HTTP/1.0
  option log-health-checks
  balance roundrobin
  default-server verify none check check-ssl inter 5s fastinter 2s fall 2 rise 3 on-marked-down shutdown-sessions
{_servers(6443, "weight 1")}
"""


def _haproxy_http(_directory: Path) -> str:
    return f"""
global
  log stdout format raw local0
defaults
  mode http
  log global
  option redispatch
  retries 3
  retry-on conn-failure empty-response
  timeout http-request 30s
  timeout queue 1m
  timeout connect 5s
  timeout client 5m
  timeout server 15m
  timeout tunnel 1h
  timeout check 10s
frontend apiserver
  bind {BALANCER_HTTP}
  default_backend apiserverbackend
backend apiserverbackend
  balance leastconn
  option httpchk GET /readyz
  http-check expect status 200
{_servers(8080, "check inter 2s fall 2 rise 2")}
"""
