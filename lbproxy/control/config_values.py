"""How single values are spelt in lb.yaml.

Each reader takes what stood in the file and returns what the model holds, or raises ValueError with a sentence that
says what to write instead.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import stat
from collections.abc import Iterable
from enum import Enum
from typing import Any

from lbproxy.control.config_problem import printable
from lbproxy.core.config import Algorithm, Balance

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SCALES = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)")
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LONGEST = 366 * 86400.0  # a longer one is a slip of the unit

_NAME = re.compile(r"[A-Za-z0-9_.:/@%+~,\[\]-]{1,128}")  # every address is a name, too
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]{1,255}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TARGET = re.compile(r"/[!-~]{0,2047}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")

KEYED = (Algorithm.HASH, Algorithm.CONSISTENT_HASH)
_KEY_WORDS = "remote_addr, uri, host or header:NAME"


def spoken(value: object) -> str:
    """A value as an operator would name it, never longer than a line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{shortened(value)}"'
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return str(value)


def shortened(text: str) -> str:
    escaped = printable(text)
    return escaped if len(escaped) <= 200 else escaped[:197] + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` probably means, or an empty text."""
    return next(iter(difflib.get_close_matches(word[:80].lower(), list(known), 1, 0.6)), "")


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("on", "off", "true", "false", "yes", "no"):
        return value.lower() in ("on", "true", "yes")
    raise ValueError(f"must be true or false (on and off will do), not {spoken(value)}")


def whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"must be a whole number, not {spoken(value)}{_unquote(value)}")


def _unquote(value: object) -> str:
    return "; remove the quotes" if isinstance(value, str) and value.isascii() and value.isdigit() else ""


def number(value: object) -> float | None:
    """The value as a finite number, None if it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def duration(value: object) -> float:
    """Seconds from 2s, 500ms, 1m30s or a number of seconds."""
    seconds = number(value)
    if seconds is None and isinstance(value, str):
        seconds = _duration_text(value)
    if seconds is None:
        raise ValueError(f"must be a duration such as 2s, 500ms, 10m or a number of seconds, not {spoken(value)}")
    if seconds < 0:
        raise ValueError(f"a duration cannot be negative: {spoken(value)}")
    if seconds > _LONGEST:
        raise ValueError(f"{spoken(value)} is longer than a year; check the unit")
    return seconds


def _duration_text(text: str) -> float | None:
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    # Division for milliseconds: 700 / 1000 is 0.7, 700 * 0.001 is not.
    return sum(float(part[1]) / 1000 if part[2] == "ms" else float(part[1]) * _SCALES[part[2]] for part in parts)


def whole_duration(value: object) -> float:
    seconds = duration(value)
    if seconds != int(seconds):
        raise ValueError(f"must be whole seconds, not {spoken(value)}")
    return seconds


def size(value: object) -> int:
    """Bytes from 64KiB, 1MiB or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a size such as 64KiB, 1MiB or a number of bytes, not {spoken(value)}")
    return int(match[1]) * _SIZES[match[2]]


def ratio(value: object) -> float:
    """A share from 20% or 0.2."""
    share = number(value)
    if share is None and isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", value):
        share = float(value[:-1]) / 100
    if share is None or not 0 <= share <= 1:
        raise ValueError(f"must be a share from 0% to 100%, or a number from 0 to 1, not {spoken(value)}")
    return share


def text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"must be a text, not {spoken(value)}{'; put it in quotes' if number(value) is not None else ''}")


def name(value: object) -> str:
    word = text(value)
    if not _NAME.fullmatch(word):
        raise ValueError(f"{spoken(word)} cannot be a name: use up to 128 letters, digits and _ . : / @ % + ~ , [ ] -")
    return word


def host(value: object) -> str:
    word = text(value)
    if not _HOST.fullmatch(word):
        raise ValueError(f"{spoken(word)} cannot stand in a Host header: no spaces, line ends or slashes, not empty")
    return word


def server_name(value: object) -> str:
    word = text(value)
    if _DNS_NAME.fullmatch(word) and len(word) <= 253:
        return word
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        raise ValueError(f"{spoken(word)} is neither a DNS name nor an IP address") from None


def target(value: object) -> str:
    word = text(value)
    if not _TARGET.fullmatch(word):
        raise ValueError(f"{spoken(word)} cannot be requested: a path begins with / and has no spaces")
    return word


def token(value: object) -> str:
    word = text(value)
    if not _TOKEN.fullmatch(word):
        raise ValueError(f"{spoken(word)} is no HTTP token")
    return word


def socket_path(value: object) -> str:
    word = text(value)
    if not word.startswith("/") or len(word.encode()) > 107 or not word.isprintable():  # sun_path in unix(7)
        raise ValueError(f"{spoken(word)} is no path of a socket: an absolute one, of at most 107 bytes")
    return word


def cidr(value: object) -> str:
    word = text(value)
    try:
        loose = ipaddress.ip_network(word, strict=False)
    except ValueError:
        raise ValueError(f"{spoken(word)} is no address range: write 10.0.0.0/8, fd00::/8 or one address") from None
    if "/" in word and str(loose.network_address) != str(ipaddress.ip_address(word.partition("/")[0])):
        raise ValueError(f"{spoken(word)} has bits beyond its prefix: did you mean {loose}?")
    return word


def readable_file(value: object, directory: str) -> str:
    """The path of a file that can be read, made absolute; relative ones start in `directory`."""
    word = text(value)
    path = os.path.join(directory, word)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ValueError(f"the file {spoken(path)} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        words = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"the file {spoken(path)} cannot be looked at: {words}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{spoken(path)} is not a file")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise ValueError(f"the file {spoken(path)} cannot be read by uid {os.geteuid()}; check its mode")
    return path


def choice(kind: type[Enum], value: object) -> Any:
    """The member of an Enum of texts."""
    names = [str(member.value) for member in kind]
    return kind(one_of(names, value))


def one_of(names: list[str], value: object) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"  # YAML's truth, our word: `forwarded_for: off`
    if isinstance(value, str) and value in names:
        return value
    close = nearest(value, names) if isinstance(value, str) else ""
    given = value if value in ("on", "off") else spoken(value)
    words = f"must be {' or '.join(', '.join(names).rsplit(', ', 1))}, not {given}"
    raise ValueError(f"{words}; did you mean {close}?" if close else words)


def balance(value: object) -> Balance:
    """An algorithm's name, or {hash: KEY} or {consistent_hash: KEY}."""
    names = [str(member.value) for member in Algorithm]
    if isinstance(value, dict):
        return _keyed(value)
    algorithm = Algorithm(one_of(names, value))
    if algorithm in KEYED:
        raise ValueError(f"{algorithm.value} needs a key: write {{{algorithm.value}: KEY}}; KEY is {_KEY_WORDS}")
    return Balance(algorithm)


def _keyed(value: dict[str, object]) -> Balance:
    keyed = [algorithm.value for algorithm in KEYED]
    if len(value) != 1:
        raise ValueError("a mapping here has one line: hash: KEY or consistent_hash: KEY")
    word, key = next(iter(value.items()))
    if word not in keyed:
        close = nearest(word, keyed)
        known = [str(member.value) for member in Algorithm]
        advice = f"write balance: {word}" if word in known else f"did you mean {close}?" if close else ""
        raise ValueError(
            f"only hash and consistent_hash take a key, not {spoken(word)}" + (f"; {advice}" if advice else "")
        )
    return Balance(Algorithm(word), hash_key(key))


def hash_key(value: object) -> str:
    if isinstance(value, str):
        if value in ("remote_addr", "uri", "host"):
            return value
        if value.startswith("header:") and _TOKEN.fullmatch(value.removeprefix("header:")):
            return value
    close = nearest(value, ("remote_addr", "uri", "host")) if isinstance(value, str) else ""
    words = f"{spoken(value)} is not a key to hash: use {_KEY_WORDS}"
    raise ValueError(f"{words}; did you mean {close}?" if close else words)
