"""The JSON of /overview: what the dashboard shows, at one look.

The fields of /status, from counters that are up to a second old: an open page asks nothing of the workers. And what
has happened lately, of which a page that has seen some asks for the rest only.
"""

from __future__ import annotations

import time
from typing import Any

from lbproxy.admin.status import stamp, status_of
from lbproxy.admin.view import View


def overview(view: View, after_sample: int, after_event: int) -> dict[str, Any]:
    """All of it."""
    return {
        **status_of(view, view.known_counters()),
        "now": stamp(time.time()),
        "history": view.history.since(after_sample, view),
        "events": view.events.since(after_event),
    }
