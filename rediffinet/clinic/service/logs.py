"""One JSON object a line on stderr: times, addresses of the API, states, ids; no name of a case or file, no token.

That holds for what libraries say as well: warnings and records are told without their texts, which may hold names.
"""

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

_END = b"\0"
_TEXT = 500
_lock = threading.Lock()


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write a line. The caller passes nothing that a client chose but numbers and ids that were made here."""
    with _lock:
        print(_line(event, level, **fields), file=sys.stderr, flush=True)


def log_error(event: str, error: BaseException, **fields: Any) -> None:
    """An unexpected error by its type and the places it came through; its text may hold a name, and is left out."""
    log(event, "error", type=type(error).__name__, at=_places(error.__traceback__), **fields)


@contextmanager
def lines_of_json() -> Iterator[Callable[[str], None]]:
    """Within the block every line on stderr is a JSON object, those of libraries and of child processes too.

    What they print goes through a pipe; a line that is no object is wrapped. Yields a function that says a line on
    stdout, where nothing else appears.
    """
    said, written = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    real_out, real_err = os.dup(1), os.dup(2)
    os.dup2(written, 1)
    os.dup2(written, 2)
    teller = threading.Thread(target=_tell, args=(said, real_err), daemon=True, name="log")
    teller.start()
    tell_libraries()
    try:
        yield lambda line: _write(real_out, f"{line}\n".encode())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(written, _END + b"\n")
        os.dup2(real_out, 1)
        os.dup2(real_err, 2)
        teller.join(5.0)
        for descriptor in (written, real_out, real_err):
            os.close(descriptor)


def tell_libraries() -> None:
    """Warnings, records of `logging` and uncaught errors of this process as lines of the log."""
    logging.basicConfig(handlers=[_Records()], level=logging.WARNING, force=True)
    warnings.showwarning = lambda message, category, filename, lineno, *_: log(
        "library warns", "warning", type=category.__name__, at=[f"{Path(filename).name}:{lineno}"]
    )
    sys.excepthook = lambda kind, error, trace: log_error("uncaught error", error)
    sys.unraisablehook = lambda found: log("uncaught error", "error", at=_places(found.exc_traceback))
    threading.excepthook = lambda found: log("uncaught error", "error", at=_places(found.exc_traceback))


class _Records(logging.Handler):
    """Records without their messages, but for those of the web server, which hold nothing of a client."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line."""
        where = [f"{Path(record.pathname).name}:{record.lineno}"]
        if record.exc_info and record.exc_info[2] is not None:
            where += _places(record.exc_info[2])
        text = {"text": str(record.msg)} if record.name.startswith("uvicorn") else {}
        log("library says", record.levelname.lower(), logger=record.name, at=where, **text)


def _tell(said: int, real: int) -> None:
    """Lines of the pipe onto stderr, until the mark of the end or everybody who writes is gone."""
    with os.fdopen(said, "rb") as lines:
        for line in lines:
            if line.startswith(_END):
                return
            text = line.strip()
            if text:
                _write(real, (text if _is_object(text) else _wrapped(text)) + b"\n")


def _wrapped(text: bytes) -> bytes:
    return _line("process prints", "warning", text=text[:_TEXT].decode(errors="replace")).encode()


def _is_object(text: bytes) -> bool:
    try:
        return text.startswith(b"{") and isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _write(descriptor: int, content: bytes) -> None:
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        pass  # whoever listened is gone; the service goes on


def _line(event: str, level: str, **fields: Any) -> str:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": moment, "level": level, "event": event, **fields}, ensure_ascii=True)


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-8:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
