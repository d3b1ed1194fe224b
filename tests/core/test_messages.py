"""What fits into a packet, and what does not."""

from __future__ import annotations

import pytest

from lbproxy.core import messages
from lbproxy.core.histogram import BUCKETS
from lbproxy.core.messages import BackendStats, Stats


def busy() -> BackendStats:
    """A backend that has met everything, for years."""
    large = (1 << 40) + 1
    stats = BackendStats(total=large, failed=large, bytes_in=large, bytes_out=large, reused=large, head_seconds=1e9)
    stats.retries = dict.fromkeys(("dial", "stale", "closed", "refused"), large)
    stats.dials = {(result, bucket): large for result in messages.DIALS for bucket in range(BUCKETS)}
    stats.dial_seconds = dict.fromkeys(messages.DIALS, 1e9)
    stats.heads = dict.fromkeys(range(BUCKETS), large)
    stats.responses = dict.fromkeys(range(1, 6), large)
    stats.ends = dict.fromkeys(("CD", "SD", "sH", "DD"), large)
    return stats


def test_counters_of_a_thousand_backends_that_do_nothing_are_one_packet() -> None:
    assert len(messages.encode_in_parts(Stats([], {"p": [BackendStats() for _ in range(1000)]}))) == 1


def test_counters_of_a_thousand_busy_backends_come_in_parts() -> None:
    stats = Stats([], {"p": [busy() for _ in range(1000)]})
    with pytest.raises(ValueError, match="larger than the control channel's limit"):
        messages.encode(stats)
    packets = messages.encode_in_parts(stats)
    assert len(packets) > 1
    assert max(map(len, packets)) <= messages.MAX_MESSAGE
    inbox = messages.Inbox()
    for _ in range(2):
        *before, last = [inbox.take(packet) for packet in packets]
        assert set(before) == {None}
        assert last == stats


def test_other_messages_may_come_between_the_parts() -> None:
    stats = Stats([], {"p": [busy() for _ in range(1000)]})
    first, *others = messages.encode_in_parts(stats)
    inbox, ready = messages.Inbox(), messages.Ready()
    assert inbox.take(first) is None
    assert inbox.take(messages.encode(ready)) == ready
    assert [inbox.take(packet) for packet in others][-1] == stats
