"""What a terminal or a pipe can do to a command: closed streams, narrow encodings, readers that go away.

The work goes on whatever becomes of what is printed: results are files.
"""

import codecs
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)
"""What a write says when nobody reads any more: a closed pipe, a terminal that hung up, a closed descriptor."""


class _Pipe(io.RawIOBase):
    """A descriptor that takes everything: once nobody reads, what is written is dropped.

    failed: another error, such as a full disk behind a redirection, which the command has to tell.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gone = False
        self.failed: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor, for those who ask whether it is a terminal."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is one."""
        return os.isatty(self._descriptor)

    def write(self, content: Any) -> int:
        """Write all of it, or drop it."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest and not self._gone:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError as error:
                self._gone = True
                if error.errno not in GONE:
                    self.failed = error
        return size


class _Stream(io.TextIOWrapper):
    """Text on a `_Pipe`; characters that the encoding lacks are escaped."""

    def __init__(self, pipe: _Pipe, encoding: str, *, line_buffering: bool) -> None:
        self.pipe = pipe
        # an ASCII stream is declared as Latin-1 and given ASCII only: typer writes UTF-8 where it sees ASCII
        self._ascii = codecs.lookup(encoding).name == "ascii"
        declared = "latin-1" if self._ascii else encoding
        super().__init__(io.BufferedWriter(pipe), declared, "backslashreplace", line_buffering=line_buffering)

    def write(self, text: str) -> int:
        """Write, escaped where needed."""
        return super().write(text.encode("ascii", "backslashreplace").decode("ascii") if self._ascii else text)


@contextmanager
def lasting_streams() -> Iterator[Callable[[], str | None]]:
    """Within the block stdout and stderr take everything; streams that are no descriptors (a test's) are left alone.

    Yields a function that says why stdout could not be written, if not for nobody reading it: a full disk.
    """
    _open_descriptors()
    kept = sys.stdout, sys.stderr
    stdout, stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
    sys.stdout, sys.stderr = stdout, stderr

    def failed() -> str | None:
        stdout.flush()
        error = stdout.pipe.failed if isinstance(stdout, _Stream) else None
        return None if error is None else error.strerror

    try:
        yield failed
    finally:
        stdout.flush()
        stderr.flush()
        sys.stdout, sys.stderr = kept


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    """The stream to use instead of sys.stdout or sys.stderr; None is what Python sets for a closed one."""
    if stream is None:
        return _Stream(_Pipe(descriptor), "utf-8", line_buffering=False)
    try:
        own = stream.fileno() == descriptor
    except (OSError, ValueError):
        return stream
    if not own or not isinstance(stream, io.TextIOWrapper):
        return stream
    if sys.platform == "win32" and stream.isatty():  # the console has an interface of its own
        stream.reconfigure(errors="backslashreplace")
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return _Stream(_Pipe(descriptor), stream.encoding, line_buffering=stream.line_buffering)


def _open_descriptors() -> None:
    """Point closed standard descriptors at the null device, or the next file that is opened would become stdout."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                if null != descriptor:
                    os.dup2(null, descriptor)
                    os.close(null)
