"""Watches that go on when their backend does not: whole events out, the version to resume from remembered.

Pure: bytes in, bytes out. In the order in which they are needed:

- `parse_watch_request(target)` when a GET has come: what it asks for, or None if it is no watch;
- `open_watch(request, head)` when a backend has answered 200: a `WatchStream`, or None where events cannot be told
  apart (a media type that is not known, a content coding): then bytes are passed on as they come, and their end too;
- `WatchBody(stream).feed(data)`: chunks in, chunks of whole events out;
- when the backend is gone and `stream.resume_from` is not None: `request.resumed_target(version, elapsed)` for another
  backend, `judge_resumption` for its answer, `WatchBody.resume` if that is GO_ON, and `feed` again;
- if that makes `stream.refused` true, the next backend; if none is left, `WatchBody.give_in` and LAST_CHUNK;
- where a stream cannot or need not go on, `stream.can_end` says whether LAST_CHUNK is an end that clients bear well.

`progress.py` says when a version is safe to resume from, and why.
"""

from lbproxy.core.watch.body import LAST_CHUNK, WatchBody
from lbproxy.core.watch.handover import body_from, body_state
from lbproxy.core.watch.media import open_watch
from lbproxy.core.watch.progress import Phase
from lbproxy.core.watch.request import WatchRequest, parse_watch_request
from lbproxy.core.watch.resumption import Answer, judge_resumption
from lbproxy.core.watch.stream import MAX_EVENT, WatchStream

__all__ = [
    "LAST_CHUNK",
    "MAX_EVENT",
    "Answer",
    "Phase",
    "WatchBody",
    "WatchRequest",
    "WatchStream",
    "body_from",
    "body_state",
    "judge_resumption",
    "open_watch",
    "parse_watch_request",
]
