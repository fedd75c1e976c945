"""Log records as lines of JSON, with everything that was given as `extra`."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A `logging.Formatter`: one JSON object a line, with `time`, `level`, `logger`, `message`, and what `extra` has.

    An exception is in `exception`, as text.  A value that JSON has no word for is given as its `repr`.  Any
    reader of JSON and UTF-8 takes the line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update((name, value) for name, value in vars(record).items() if name not in _PLAIN)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return _line(fields)


def _line(fields: dict[str, Any]) -> str:
    try:
        text = json.dumps(fields, default=repr, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a key that is no text, an infinity, a circle
        plain = {name: value if isinstance(value, str | int | None) else repr(value) for name, value in fields.items()}
        text = json.dumps(plain, ensure_ascii=False)
    # A surrogate, as os.fsdecode makes them, is no character of UTF-8; its escape is one of JSON.
    return text.encode("utf-8", "backslashreplace").decode()
