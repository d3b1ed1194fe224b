"""The access log in other formats than JSON, for people and for what reads HAProxy's log.

Workers write JSON, always: it is the cheapest to make. The control plane turns the lines into what lb.yaml asks for on
their way to stdout. In HAProxy's formats (its configuration manual, 8.2.2 and 8.2.3) a value that lbproxy does not
have is what HAProxy writes where there is none: 0 for times in a queue and for its five counts of connections, - for
cookies. `Tc`, the time to connect, is 0 too, since most requests find a connection; dials have a histogram.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

AccessFormat = Literal["json", "text", "tcplog", "httplog"]
Line = dict[str, Any]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NO_COUNTS = "0/0/0/0/0 0/0"
_NO_BACKEND = "<NOSRV>"  # as HAProxy writes it


def formatter(name: str) -> Callable[[bytes], bytes] | None:
    """What turns whole lines of JSON into a format; None for JSON itself."""
    make = _FORMATS.get(name)
    if make is None:
        return None

    def turn(lines: bytes) -> bytes:
        made = (make(json.loads(line)) for line in lines.splitlines())
        return "".join(f"{line}\n" for line in made if line).encode()

    return turn


def text_line(line: Line) -> str:
    """For people: what happened first, then to whom, then the figures."""
    words = [line["ts"], f"{line['event']:<7}", f"{line['client'] or 'unix'}:{line['client_port']}"]
    words += ["->", line["backend"] or "-"]
    if line["mode"] == "http":
        words += [line["method"] or "-", line["target"] or "-", str(line["status"])]
    if "duration_s" in line:
        words += [f"{line['duration_s']:g}s", f"in={line['bytes_in']}", f"out={line['bytes_out']}", line["end"] or "--"]
    if line.get("source"):
        words.append(f"from={line['source']}")
    return " ".join(words)


def tcplog_line(line: Line) -> str:
    """HAProxy's `option tcplog`; nothing for what has only begun."""
    if "duration_s" not in line:
        return ""
    times = f"0/{_connected(line)}/{_ms(line['duration_s'])}"
    return f"{_who(line)} {times} {line['bytes_out']} {line['end'] or '--'} {_NO_COUNTS}"


def httplog_line(line: Line) -> str:
    """HAProxy's `option httplog`; a connection of tcp mode as in tcplog, which is what HAProxy does."""
    if line["mode"] == "tcp":
        return tcplog_line(line)
    if "duration_s" not in line:
        return ""
    head = -1 if line["head_s"] is None else _ms(line["head_s"])
    times = f"0/0/{_connected(line)}/{head}/{_ms(line['duration_s'])}"
    request = f"{line['method']} {line['target']} HTTP/1.1".replace('"', "#22") if line["method"] else "<BADREQ>"
    status, end = line["status"] or -1, f"{line['end']}--"
    return f'{_who(line)} {times} {status} {line["bytes_out"]} - - {end} {_NO_COUNTS} "{request}"'


def _who(line: Line) -> str:
    server = line["backend"] or _NO_BACKEND
    client = f"{line['client'] or 'unix'}:{line['client_port']}"
    return f"{client} [{_began(line)}] {line['listener']} {line['pool']}/{server}"


def _connected(line: Line) -> int:
    return -1 if line["backend"] is None else 0


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _began(line: Line) -> str:
    """HAProxy's date, in UTC: of the beginning, where `ts` is of the end."""
    at = datetime.fromisoformat(line["ts"]) - timedelta(seconds=line["duration_s"])
    return f"{at:%d}/{_MONTHS[at.month - 1]}/{at:%Y:%H:%M:%S}.{at.microsecond // 1000:03d}"


_FORMATS: dict[str, Callable[[Line], str]] = {"text": text_line, "tcplog": tcplog_line, "httplog": httplog_line}
