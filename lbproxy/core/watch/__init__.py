"""Watches that go on when their backend does not: whole events out, the version to resume from remembered.

Pure: bytes in, bytes out. In the order in which they are needed:

- `parse_watch_request(target)` when a GET has come: what it asks for, or None if it is no watch;
- `open_watch(request, head)` when the backend's response has: a `WatchStream`, or None where events cannot be told
  apart (a media type that is not known, a content coding): then bytes are passed on as they come, and the end too;
- `WatchStream.feed` and `resume`, from the first backend to the last; `resume_from` and `can_end` say what may be done;
- `request.resumed_target(version, elapsed)` for another backend, `judge(stream, status, head)` for its answer.

`progress.py` says when a version is safe, and why.
"""

from lbproxy.core.watch.media import open_watch
from lbproxy.core.watch.progress import Phase
from lbproxy.core.watch.request import WatchRequest, parse_watch_request
from lbproxy.core.watch.stream import MAX_EVENT, WatchStream

__all__ = ["MAX_EVENT", "Phase", "WatchRequest", "WatchStream", "open_watch", "parse_watch_request"]
