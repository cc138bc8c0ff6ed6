"""Logging of the command line: what `-v`, `--log-level` and `--log-json` set up.

Library code logs through `logging.getLogger(__name__)` and stays silent until a handler is added;
records never hold what identifies a patient: no names, ids, paths or text of a sample.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal, TextIO

LogLevel = Literal["debug", "info", "warning", "error"]
# Attributes of every record; anything else was given with `extra=`.
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the fields of `extra=`, exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def configure(level: LogLevel, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Write records of lingshu from `level` on to `stream`, standard error by default."""
    logger = logging.getLogger("lingshu")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if as_json
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def configure_default(level: LogLevel) -> None:
    """As `configure`, unless a handler was added: for servers, whose replies refer to the log."""
    handlers = logging.getLogger("lingshu").handlers
    if all(isinstance(handler, logging.NullHandler) for handler in handlers):
        configure(level)
