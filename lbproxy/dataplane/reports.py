"""What a worker has to say besides its access log: warnings, and the tracebacks of bugs.

It goes the same way, through the pipe to the control plane, and is written to stdout there. A worker that wrote to
stderr would wait for whoever reads that, and would keep a file open that has been rotated.
"""

from __future__ import annotations

import json
import logging

from lbproxy.dataplane.access_log import AccessLog

_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}
_FORMATTER = logging.Formatter()


class Reports(logging.Handler):
    """Turns log records into lines of the pipe: JSON that begins with the level."""

    def __init__(self, pipe: AccessLog) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"level": _LEVELS.get(record.levelno, "error"), "msg": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = _FORMATTER.formatException(record.exc_info)
        self._pipe.say(json.dumps(fields))
