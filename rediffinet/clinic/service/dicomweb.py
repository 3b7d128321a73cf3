"""An image archive over DICOMweb: the MR series of a study come by WADO-RS, objects made of them go back by STOW-RS."""

import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from rediffinet.clinic.service.settings import UID, Archive
from rediffinet.errors import ArchiveError, CaseError

WAIT_S = 60.0
"""Longest pause of the archive in the middle of an answer."""
CHUNK = 2**20
JSON_BYTES = 64 * 2**20


def fetch_study(
    archive: Archive,
    study: str,
    folder: Path,
    *,
    files: int,
    size: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, of: None,
) -> None:
    """Write the instances of all MR series of a study into a new folder, under names made here.

    files, size: the most instances and bytes. progress is called between series; what it raises passes through.
    Raises CaseError for a study that is not there or too large, ArchiveError when the archive refuses or fails.
    """
    folder.mkdir(parents=True)
    series = _series(archive, study)
    sink = _Instances(folder, files, size)
    for done, uid in enumerate(series):
        progress("fetch", done, len(series))
        path = f"studies/{study}/series/{uid}"
        with _answer(archive, path, accept='multipart/related; type="application/dicom"') as answer:
            sink.take(answer)


def store_objects(archive: Archive, paths: Sequence[Path]) -> None:
    """Store DICOM files. Storing the same again changes nothing. Raises ArchiveError when not all were taken."""
    boundary = uuid.uuid4().hex
    mark = b"--" + boundary.encode()
    head = mark + b"\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + path.read_bytes() + b"\r\n" for path in paths) + mark + b"--\r\n"
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    with _answer(archive, "studies", accept="application/dicom+json", body=body, kind=kind) as answer:
        if answer.status != 200:
            raise ArchiveError(f"The archive answered {answer.status} and did not take all objects. Its log says why.")


def _series(archive: Archive, study: str) -> list[str]:
    with _answer(archive, f"studies/{study}/series?Modality=MR", accept="application/dicom+json") as answer:
        content = answer.read(JSON_BYTES)
    try:
        found = [str(entry["0020000E"]["Value"][0]) for entry in json.loads(content or b"[]")]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ArchiveError("The archive's list of series cannot be read. Expected DICOM JSON (QIDO-RS).") from None
    if not all(re.fullmatch(UID, uid) for uid in found):
        raise ArchiveError("The archive's list of series holds what is no UID.")
    if not found:
        raise CaseError("The archive has no MR series of this study. Expected an examination of the head.")
    return found


@contextmanager
def _answer(
    archive: Archive, path: str, *, accept: str, body: bytes | None = None, kind: str = ""
) -> Iterator[HTTPResponse]:
    headers = {"Accept": accept, **({"Content-Type": kind} if body is not None else {})}
    if archive.authorization:
        headers["Authorization"] = archive.authorization
    request = urllib.request.Request(f"{archive.address.rstrip('/')}/{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404 and body is None:
            raise CaseError("The archive has no such study, or no such series of it.") from None
        said = "refuses this service" if error.code in (401, 403) else f"answered {error.code} {error.reason}"
        raise ArchiveError(f"The archive {said}. Its operator can say why.") from None
    except (urllib.error.URLError, TimeoutError, HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise ArchiveError(f"The archive does not answer, or stopped in the middle: {reason}.") from None


class _Instances:
    """Writes the parts of answers as files, and counts them."""

    def __init__(self, folder: Path, files: int, size: int) -> None:
        self._folder, self._files, self._size = folder, files, size
        self._count = self._bytes = 0
        self._stream: IO[bytes] | None = None

    def take(self, answer: HTTPResponse) -> None:
        """All parts of one answer."""
        kind, options = parse_options_header(answer.headers.get("Content-Type"))
        if kind != b"multipart/related" or not options.get(b"boundary"):
            raise ArchiveError("The archive did not send multipart/related. Expected a WADO-RS of DICOM instances.")
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True

        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": end,
        }
        parser = MultipartParser(options[b"boundary"], callbacks)
        try:
            while chunk := answer.read(CHUNK):
                parser.write(chunk)
        except MultipartParseError as error:
            raise ArchiveError(f"The archive's answer is malformed: {error}.") from None
        finally:
            self._end()
        if not ended:
            raise ArchiveError("The archive's answer ends in the middle.")

    def _begin(self) -> None:
        self._count += 1
        if self._count > self._files:
            raise CaseError(f"The study has more than {self._files} instances, the limit of this service.")
        self._stream = (self._folder / f"{self._count:06d}.dcm").open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._bytes += end - start
        if self._bytes > self._size:
            raise CaseError(f"The study is larger than {self._size / 2**20:.0f} MiB, the limit of this service.")
        assert self._stream is not None
        self._stream.write(data[start:end])

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
