"""The TLS side of a health check: a context that follows its files.

Certificates of a cluster are renewed every year or every hour, by something that tells nobody. Files are looked at
before each check (three stat calls), and parsed only when one of them has changed.
"""

from __future__ import annotations

import os
import ssl

from lbproxy.core.config import HealthCheck


class CheckTls:
    """Makes and remembers the SSLContext of a health check."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self._context: ssl.SSLContext | None = None
        self._stamp: list[tuple[int, ...]] = []
        self.problem = ""  # why the newest files are not in use

    def context(self) -> ssl.SSLContext:
        """The context for the files as they are now.

        Files that cannot be used, say because only one of certificate and key has been replaced so far, leave the
        former context in place and `problem` set. Raises OSError if there is no former one.
        """
        try:
            stamp = self._look()
            if self._context is None or stamp != self._stamp:
                self._context = make_context(self._check)
                self._stamp = stamp
            self.problem = ""
        except OSError as error:
            problem = f"cannot load {self._names()}: {error}"
            if self._context is None:
                raise OSError(problem) from None
            self.problem = f"{problem}; the former ones stay in use"
        return self._context

    def _look(self) -> list[tuple[int, ...]]:
        paths = (self._check.ca_file, self._check.client_cert, self._check.client_key)
        stats = [os.stat(path) for path in paths if path is not None]
        return [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def _names(self) -> str:
        names = ("ca_file", "client_cert", "client_key")
        return ", ".join(f"health_check.{name}" for name in names if getattr(self._check, name) is not None)


def make_context(check: HealthCheck) -> ssl.SSLContext:
    """A client context as the health check asks for. Raises OSError for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verifies(check):
        if check.ca_file is not None:
            context.load_verify_locations(cafile=check.ca_file)
        else:
            context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if check.client_cert is not None:
        # An empty password: a key that needs one is an error here, not a question on the terminal.
        context.load_cert_chain(check.client_cert, check.client_key, password="")
    return context


def verifies(check: HealthCheck) -> bool:
    return check.ca_file is not None if check.verify is None else check.verify
