"""A network namespace, entered by this thread and by all it starts, in which an address can go dark.

Dark as when a cable is pulled: packets to and from it vanish, and nobody says so. The loopback of a namespace that was
made here is the only network that is touched.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from types import TracebackType

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
RULES = """
table ip chaos {
  set dark { type ipv4_addr; }
  chain input {
    type filter hook input priority 0;
    ip saddr @dark drop
    ip daddr @dark drop
  }
}
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """`with Namespace() as network:` — threads that were started before stay where they were."""

    def __enter__(self) -> Namespace:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _check(_libc.unshare(CLONE_NEWNET))
        _run("ip", "link", "set", "lo", "up")
        _run("nft", "-f", "-", stdin=RULES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _check(_libc.setns(self._home, CLONE_NEWNET))
        os.close(self._home)

    def darken(self, address: str) -> None:
        _run("nft", "add", "element", "ip", "chaos", "dark", f"{{ {address} }}")

    def lighten(self, address: str) -> None:
        _run("nft", "delete", "element", "ip", "chaos", "dark", f"{{ {address} }}")


def _run(*command: str, stdin: str = "") -> None:
    subprocess.run(command, input=stdin, text=True, check=True, timeout=10)
