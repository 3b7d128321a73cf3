"""The bytes of a request onto the disk as they come, never whole in memory, never under a name that was sent."""

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from rediffinet.clinic.service.problems import Problem
from rediffinet.clinic.service.settings import Limits

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
ARCHIVE = "archive"
BRAIN_MASK = "brain_mask"
STUDY = "study"
YES = ("true", "1", "on", "yes", "t", "y")
TEXT_BYTES = 4096
BUFFER = 2**20
IDLE_S = 60.0
ZIPS = ("application/zip", "application/x-zip-compressed")


@dataclass
class Received:
    """What came: text by field, and the file of each contrast or of the archive, and of a brain mask."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


async def receive(request: Request, folder: Path, limits: Limits, text_fields: tuple[str, ...]) -> Received:
    """Write the files of a request into `folder`, which is made.

    Raises Problem: 400 malformed, 408 too slow, 411/413 too large, 415 another content type, 422 not the parts that
    were expected, 499 the client went away; OSError when the disk is full. The caller removes the folder.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    try:
        folder.mkdir(parents=True)
        if shutil.disk_usage(folder).free < 2 * int(declared if declared.isdecimal() else 0) + 64 * 2**20:
            raise OSError(errno.ENOSPC, "no space")
        sink: _Parts | _Body
        if kind == b"multipart/form-data" and options.get(b"boundary"):
            sink = _Parts(folder, options[b"boundary"], text_fields)
        elif kind.decode("latin-1") in ZIPS:
            sink = _Body(folder)
        else:
            detail = (
                f"The content type is not one that is taken. Expected multipart/form-data with the parts "
                f"{', '.join(CONTRASTS)} or {ARCHIVE}, or a body of application/zip."
            )
            raise Problem(415, detail)
        try:
            async with asyncio.timeout(limits.upload_s):
                async for block in _blocks(request, limits):
                    await run_in_threadpool(sink.write, block)
        finally:
            await run_in_threadpool(sink.close)
        return await run_in_threadpool(sink.received)
    except TimeoutError:
        raise _too_slow(limits) from None
    except FormParserError as error:
        raise Problem(400, f"The multipart body is malformed: {error}.") from None


async def skip(request: Request, limits: Limits) -> None:
    """Read a body that nobody needs: a client that is still sending it hears no answer. Raises Problem as `receive`."""
    try:
        async with asyncio.timeout(limits.upload_s):
            async for _ in _blocks(request, limits):
                pass
    except TimeoutError:
        raise _too_slow(limits) from None


async def _blocks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces of about a megabyte."""
    total, waiting, size = 0, [], 0
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            break
        except ClientDisconnect:
            raise Problem(499, "The client went away.") from None
        total += len(chunk)
        if total > limits.upload_bytes:
            raise _too_large(limits)
        waiting.append(chunk)
        size += len(chunk)
        if size >= BUFFER:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _too_slow(limits: Limits) -> Problem:
    detail = f"The upload took longer than {limits.upload_s:.0f} s, or paused for more than {IDLE_S:.0f} s."
    return Problem(408, detail)


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"The upload is larger than {limits.upload_bytes / 2**20:.0f} MiB, the limit of this service.")


class _Body:
    """The whole body is an archive."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "archive.zip"
        self._stream: IO[bytes] = self._path.open("xb")

    def write(self, block: bytes) -> None:
        self._stream.write(block)

    def close(self) -> None:
        self._stream.close()

    def received(self) -> Received:
        return Received(files={ARCHIVE: self._path})


class _Parts:
    """A multipart parser that writes files as they come; text parts are short and kept."""

    def __init__(self, folder: Path, boundary: bytes, text_fields: tuple[str, ...]) -> None:
        self._folder = folder
        self._text_fields = text_fields
        self._found = Received()
        self._header, self._value, self._name = b"", b"", ""
        self._stream: IO[bytes] | None = None
        self._text = bytearray()
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, block: bytes) -> None:
        self._parser.write(block)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def received(self) -> Received:
        if not self._ended:
            raise Problem(400, "The multipart body ends in the middle: the closing boundary is missing.")
        given = set(self._found.files) - {BRAIN_MASK}
        fetched = bool(self._found.texts.get(STUDY))
        lacking = set(CONTRASTS) - given
        may_lack = self._found.texts.get("allow_missing", "").lower() in YES and len(lacking) == 1
        complete = given == {ARCHIVE} or (given <= set(CONTRASTS) and (not lacking or may_lack))
        if given if fetched else not complete:
            detail = (
                f"The request holds the files {', '.join(sorted(given)) or 'none'}. Expected {', '.join(CONTRASTS)} "
                f"(one NIfTI file each; all but one with `allow_missing=true`), "
                f"or {ARCHIVE} (a zip of one case, NIfTI or DICOM), or the field {STUDY} alone."
            )
            raise Problem(422, detail)
        empty = [name for name, path in self._found.files.items() if path.stat().st_size == 0]
        if empty:
            raise Problem(422, f"{', '.join(sorted(empty))}: the file is empty (0 bytes).")
        return Received(self._found.texts, {name: _named(path, name) for name, path in self._found.files.items()})

    def _begin(self) -> None:
        self._name, self._header, self._value = "", b"", b""
        self._text.clear()

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode(errors="replace")
        self._header, self._value = b"", b""

    def _on_headers(self) -> None:
        if self._name in self._found.files or self._name in self._found.texts:
            raise Problem(422, f"The part {self._name} is there twice.")
        if self._name in (*CONTRASTS, ARCHIVE, BRAIN_MASK):
            self._found.files[self._name] = path = self._folder / f"{self._name}.part"
            self._stream = path.open("xb")
        elif self._name not in self._text_fields:
            expected = ", ".join((*CONTRASTS, ARCHIVE, BRAIN_MASK, *self._text_fields))
            raise Problem(422, f"The request holds a part that is not known. Expected parts named {expected}.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._stream is not None:
            self._stream.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > TEXT_BYTES:
            raise Problem(422, f"The field {self._name} is longer than {TEXT_BYTES} bytes.")

    def _end(self) -> None:
        if self._stream is not None:
            self.close()
        else:
            self._found.texts[self._name] = self._text.decode(errors="replace")

    def _finish(self) -> None:
        self._ended = True


def _named(part: Path, name: str) -> Path:
    """A file under the name that its content calls for."""
    with part.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    ending = "zip" if name == ARCHIVE else "nii.gz" if packed else "nii"
    return part.rename(part.with_name(f"{name}.{ending}"))
