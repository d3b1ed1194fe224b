"""`/readyz`, `/livez`, `/healthz`, and how a kube-apiserver goes away.

After SIGTERM an apiserver does, in this order (k8s.io/apiserver, genericapiserver.go and its filters):

1. `/readyz` fails at once and names `shutdown`; `/livez` and `/healthz` stay fine; everything is still served.
2. It waits `--shutdown-delay-duration`, so that balancers can notice.
3. Either the listener closes, idle connections are closed, and what comes on old ones gets 503 with Retry-After;
   or, with `--shutdown-send-retry-after`, it goes on accepting and answers 429 with Retry-After and closes.
4. With `--shutdown-watch-termination-grace-period` running watches are ended cleanly, at a pace; without, they are
   cut with the process. Other requests in flight have 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lbproxy.demo.status import ApiError

CHECKS = ("ping", "log", "etcd", "informer-sync", "poststarthook/start-apiextensions-controllers", "shutdown")
ALWAYS_SERVED = ("readyz", "livez", "healthz", "metrics", "demo")


class Phase(Enum):
    SERVING = "serving"
    NOT_READY = "not-ready"
    """SIGTERM came, the delay runs."""
    TERMINATING = "terminating"


@dataclass(slots=True)
class Health:
    """Mutable: tests and the demo add to `failing` to make checks fail."""

    phase: Phase = Phase.SERVING
    failing: set[str] = field(default_factory=set)

    def checks(self, endpoint: str) -> tuple[str, ...]:
        return CHECKS if endpoint == "readyz" else tuple(name for name in CHECKS if name != "shutdown")

    def failed(self, endpoint: str) -> set[str]:
        failing = set(self.failing)
        if endpoint == "readyz" and self.phase is not Phase.SERVING:
            failing.add("shutdown")
        return failing & set(self.checks(endpoint)) if endpoint == "readyz" else failing & {"ping", "log", "etcd"}

    def answer(
        self, endpoint: str, *, check: str = "", verbose: bool = False, excluded: frozenset[str]
    ) -> tuple[int, str]:
        """Status code and body: `ok`, or the list of checks when asked for and always on failure (healthz.go)."""
        names = [name for name in self.checks(endpoint) if name not in excluded and check in ("", name)]
        if not names:
            return 404, f"{endpoint}/{check} not found\n"
        failed = self.failed(endpoint) - excluded
        lines = [f"[-]{name} failed: reason withheld" if name in failed else f"[+]{name} ok" for name in names]
        if failed & set(names):
            return 500, "\n".join([*lines, f"{endpoint} check failed", ""])
        return 200, "\n".join([*lines, f"{endpoint} check passed", ""]) if verbose else "ok"

    def refusal(self, endpoint: str, user_agent: str, *, send_retry_after: bool) -> ApiError | None:
        """What a request gets that arrives while terminating; None to serve it."""
        if self.phase is not Phase.TERMINATING or endpoint in ALWAYS_SERVED:
            return None
        if not send_retry_after:
            return ApiError("ServiceUnavailable", "apiserver is shutting down.", retry_after=1)
        if user_agent.startswith("kube-apiserver/"):
            return None
        return ApiError("TooManyRequests", "The apiserver is shutting down, please try again later.", retry_after=5)
