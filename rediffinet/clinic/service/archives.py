"""A zip that a client sent: looked through before anything is written, unpacked with every byte counted.

What is refused: names that leave the folder, links, device names, encryption, more files or bytes than the limits, and
what grows more than 200 times while it is unpacked.
"""

import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rediffinet.errors import CaseError

CHUNK = 2**20
RATIO = 200
DEPTH = 8
NAME_BYTES = 150
ZIP = b"PK\x03\x04"
FILE_AND_FOLDER = "The archive holds a file and a folder of one name."
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*]|[. ]$')
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


def check_file_name(name: str) -> str:
    """The name, if it can be that of a file on every system; raises CaseError."""
    harmless = name not in ("", ".", "..") and "/" not in name and not _FORBIDDEN.search(name)
    if not harmless or _DEVICES.fullmatch(name) or len(name.encode(errors="replace")) > NAME_BYTES:
        message = (
            "A name of a case or file cannot be used: it is empty, too long, names a device or a folder above, or "
        )
        raise CaseError(message + "holds characters that are no part of file names. Expected letters, digits, - _ .")
    return name


def check_archive(path: Path, files: int, unpacked_bytes: int) -> list[zipfile.ZipInfo]:
    """The entries to unpack, by what the archive says of itself. Raises CaseError."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _litter(entry.filename)]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CaseError(f"The archive cannot be read: {error}. Expected a zip file.") from None
    if not entries:
        raise CaseError("The archive is empty. Expected the images of one case.")
    if len(entries) > files:
        raise CaseError(f"The archive holds {len(entries)} files. Expected at most {files}.")
    if sum(entry.file_size for entry in entries) > unpacked_bytes:
        raise CaseError(f"The archive unpacks to more than {unpacked_bytes / 2**20:.0f} MiB, the limit.")
    seen: set[str] = set()
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if entry.filename.startswith(("/", "\\")) or len(parts) > DEPTH:
            raise CaseError("The archive holds a path that is absolute or too deep. Expected folders of one case.")
        try:
            for part in parts:
                check_file_name(part)
        except CaseError as error:
            raise CaseError(f"The archive cannot be unpacked. {error}") from None
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise CaseError("The archive holds a link or a device. Expected files and folders alone.")
        if entry.flag_bits & 0x1:
            raise CaseError("The archive is encrypted. Expected one without a password.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # of the others a few bytes make gigabytes in one step, before they can be counted
            raise CaseError("The archive is compressed by another method than deflate. Expected a usual zip file.")
        folded = PurePosixPath(*parts).as_posix().casefold()
        if folded in seen:
            raise CaseError("The archive holds two files of one name.")
        seen.add(folded)
    if not seen.isdisjoint(parent.as_posix() for name in seen for parent in PurePosixPath(name).parents):
        raise CaseError(FILE_AND_FOLDER)
    return entries


def unpack(path: Path, folder: Path, files: int, unpacked_bytes: int) -> None:
    """Unpack into a new folder. Raises CaseError; OSError when the disk is full."""
    entries = check_archive(path, files, unpacked_bytes)
    left = min(unpacked_bytes, max(RATIO * path.stat().st_size, CHUNK))
    folder.mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            target = folder.joinpath(*PurePosixPath(entry.filename).parts)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as stream:
                    while chunk := source.read(CHUNK):
                        if stream.tell() == 0 and chunk.startswith(ZIP):
                            raise CaseError("The archive holds another archive. Expected the files of one case.")
                        left -= len(chunk)
                        if left < 0:
                            message = "The archive unpacks to far more than it holds, or more than the limit."
                            raise CaseError(message)
                        stream.write(chunk)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise CaseError(f"The archive is damaged: {error}.") from None
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise CaseError(FILE_AND_FOLDER) from None


def _litter(name: str) -> bool:
    return any(part in _LITTER for part in PurePosixPath(name).parts)
