"""One JSON object a line on stderr: times, addresses of the API, states, ids; no name of a case or file, no token."""

import json
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any

_lock = threading.Lock()


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write a line. The caller passes nothing that a client chose but numbers and ids that were made here."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **fields}
    with _lock:
        print(json.dumps(line, ensure_ascii=True), file=sys.stderr, flush=True)


def log_error(event: str, error: BaseException, **fields: Any) -> None:
    """An unexpected error by its type and the places it came through; its text may hold a name, and is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    log(event, "error", type=type(error).__name__, at=places, **fields)
