"""How fast watches and lists are let in after an outage.

When the masters come back, every client that lost its watch lists and watches again in the same second. Lists are the
dearest that an apiserver does, so the herd takes it down again (kubernetes/kubernetes issue 87794 saw 18,000 requests
a second). What is beyond the rate is answered 429 with Retry-After, which clients of Kubernetes obey and come back.
"""

from __future__ import annotations


class Admission:
    """A token bucket that is in force for a while. Times are seconds on any steady clock."""

    __slots__ = ("_last", "_rate", "_tokens", "_until")

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        """`rate` is per second, and what may come at once, for `seconds` from now on."""
        self._rate = rate
        self._tokens = max(rate, 1.0)
        self._last = now
        self._until = now + seconds

    def renew(self, rate: float, seconds: float, now: float) -> None:
        """Be in force for `seconds` from now on. What has been let in is not forgotten: nobody gets a second burst."""
        self._tokens = min(self._tokens, max(rate, 1.0))
        self._rate = rate
        self._until = now + seconds

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def admit(self, now: float) -> bool:
        """Whether one more may pass."""
        self._tokens = min(self._tokens + (now - self._last) * self._rate, max(self._rate, 1.0))
        self._last = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
