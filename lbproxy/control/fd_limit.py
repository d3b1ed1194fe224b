"""File descriptors: two for each connection, so their limit is the limit of everything."""

from __future__ import annotations

import contextlib
import resource

COMFORTABLE = 4096


def raise_fd_limit() -> None:
    """As many descriptors as the administrator allows; workers inherit it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a limit above fs.nr_open may be had, but not set
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def few_fds() -> str:
    """Why a warning is due, or ""."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < COMFORTABLE
    return f"only {soft} file descriptors are allowed, two for each connection: raise ulimit -n" if few else ""
