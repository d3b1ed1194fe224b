"""What etcd has stored, revision by revision: the truth that watchers' events are compared with.

Through etcd's JSON gateway, so that no client of it is needed. A revision is an object's resourceVersion.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from dataclasses import dataclass

from tests.cluster.control_plane import ETCD

MUTATION = re.compile(rb"chaos-[0-9a-f]{32}")  # libraries.work.new_key
TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Stored:
    version: int
    name: str
    keys: frozenset[str] = frozenset()  # of the mutation that made it so


def config_maps(namespace: str, since: int) -> list[Stored]:
    """Every change after a revision of every ConfigMap in a namespace from which none was deleted."""
    prefix = f"/registry/configmaps/{namespace}/"
    latest = max((int(str(one["mod_revision"])) for one in _present(prefix)), default=0)
    if latest <= since:
        return []
    found: list[Stored] = []
    request = {"create_request": {**_range(prefix), "start_revision": since + 1}}
    with _post("watch", request) as lines:
        for line in lines:
            result = json.loads(line)["result"]
            if "compact_revision" in result:
                raise ValueError(f"etcd has compacted: {result}")
            found += [_stored(event["kv"]) for event in result.get("events", ())]
            if found and found[-1].version >= latest:
                return found
    raise ValueError(f"etcd ended a watch of {prefix}")


def _stored(entry: dict[str, str]) -> Stored:
    name = base64.b64decode(entry["key"]).decode().rpartition("/")[2]
    value = base64.b64decode(entry.get("value", ""))
    return Stored(int(entry["mod_revision"]), name, frozenset(one.decode() for one in MUTATION.findall(value)))


def _present(prefix: str) -> list[dict[str, object]]:
    with _post("range", {**_range(prefix), "keys_only": True}, service="kv") as answer:
        entries: list[dict[str, object]] = json.load(answer).get("kvs", [])
        return entries


def _range(prefix: str) -> dict[str, str]:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": base64.b64encode(prefix.encode()).decode(), "range_end": base64.b64encode(end.encode()).decode()}


def _post(method: str, body: object, service: str = "") -> urllib.request.addinfourl:  # type: ignore[name-defined]
    path = f"/v3/{service}/{method}" if service else f"/v3/{method}"
    return urllib.request.urlopen(ETCD + path, json.dumps(body).encode(), timeout=TIMEOUT)
