"""The three backends: one nginx process that answers on three ports, the same for every contender.

One process and not three: on two cores every further process costs context switches that would be counted against
nobody and slow down everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.contenders import BACKLOG, Place, nginx_preamble
from bench.process import Process
from bench.scenarios import LARGE, SMALL


def start_backends(directory: Path, ports: Sequence[int], cpus: set[int]) -> Process:
    """Start nginx serving the scenarios' resources; it may not listen yet when this returns."""
    content = directory / "content"
    content.mkdir(exist_ok=True)
    (content / LARGE.path.lstrip("/")).write_bytes(LARGE.body)
    config = directory / f"backends-{ports[0]}.conf"
    config.write_text(_config(Place(directory, ports[0], ports), content))
    argv = ["nginx", "-e", "stderr", "-c", str(config)]
    return Process.start(f"backends-{ports[0]}", argv, directory, cpus)


def _config(place: Place, content: Path) -> str:
    listens = " ".join(f"listen 127.0.0.1:{port} backlog={BACKLOG};" for port in place.backends)
    return f"""\
{nginx_preamble(place)}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  sendfile on;
  open_file_cache max=10;
  default_type application/json;
  server {{
    {listens}
    root {content};
    location = {SMALL.path} {{ return 200 '{SMALL.body.decode()}'; }}
    location = /readyz {{ return 200 ok; }}
  }}
}}
"""
