"""API tokens: made here, shown once, kept as hashes.

A token holds 256 random bits, so a plain SHA-256 of it cannot be searched; a password would need a slow hash.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rediffinet.clinic.lock import held
from rediffinet.clinic.service.logs import log, log_error
from rediffinet.clinic.service.settings import private_folder
from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically

PREFIX = "rediff_"
OPEN = ""
"""The owner of what is asked without a token, where none is needed."""


@dataclass(frozen=True)
class Tokens:
    """Names by hash. closed: a token is needed even when there is none any more."""

    names: dict[str, str]
    closed: bool = False

    @property
    def open(self) -> bool:
        """Whether no token is needed."""
        return not self.names and not self.closed

    def owner(self, authorization: str | None) -> str | None:
        """Whose token an Authorization header holds; None: no known one. Where none is needed all is OPEN's."""
        if self.open:
            return OPEN
        token = _token(authorization or "")
        if token is None:
            return None
        given = _hash(token)
        found = None
        for known, name in self.names.items():  # all are compared, in the same time each
            if secrets.compare_digest(given, known):
                found = name
        return found


class TokenFile:
    """The tokens of a running service, as its file has them at the moment.

    A service that had tokens never becomes open to everybody, whatever becomes of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state(path)
        self._tokens = read_tokens(path)

    def now(self) -> Tokens:
        """The tokens; the file is read again when it has changed."""
        seen = _state(self._path)
        if seen != self._seen:
            closed = not self._tokens.open
            try:
                names = read_tokens(self._path).names
            except ConfigError as error:  # nobody is let in by a file that cannot be read
                log_error("the tokens cannot be read", error)
                names, closed = {}, True
            self._seen, self._tokens = seen, Tokens(names, closed)
            log("tokens were read again", count=len(names))
        return self._tokens


def read_tokens(path: Path) -> Tokens:
    """The tokens of a service; none where there is no file. Raises ConfigError when it cannot be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return Tokens({entry["sha256"]: name for name, entry in entries.items()})
    except FileNotFoundError:
        return Tokens({})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} cannot be read as tokens ({error}). Remove it and make new ones with `new_token=NAME`."
        raise ConfigError(message) from None


def new_token(path: Path, name: str) -> str:
    """Make a token, keep its hash, return it. A second one of a name replaces the first, which is known no longer."""
    if not name.isidentifier():
        message = f"`new_token`: got '{name}', expected a name of letters, digits and underscores"
        raise ConfigError(message)
    token = PREFIX + secrets.token_urlsafe(32)
    with _changing(path) as entries:
        entries[name] = {"sha256": _hash(token), "made": datetime.now(UTC).isoformat(timespec="seconds")}
    return token


def list_tokens(path: Path) -> list[tuple[str, str, str]]:
    """(name, when it was made, the first characters of its SHA-256) of each token."""
    return [(name, str(entry.get("made", "")), str(entry["sha256"])[:8]) for name, entry in _entries(path).items()]


def revoke_token(path: Path, name: str) -> None:
    """Forget a token: it is known no longer, at once. Raises ConfigError for one that there is not."""
    if name not in _entries(path):  # makes no folder for a service that there is not
        raise _unknown(name, _entries(path))
    with _changing(path) as entries:
        if entries.pop(name, None) is None:
            raise _unknown(name, entries)


def _entries(path: Path) -> dict[str, dict[str, str]]:
    read_tokens(path)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, dict[str, str]]]:
    """The entries to change, kept when the block ends well. Nobody else changes them meanwhile."""
    private_folder(path.parent)
    with held(path.with_suffix(".lock"), wait=True):
        entries = _entries(path)
        yield entries
        write_atomically(path, (json.dumps(entries, indent=1) + "\n").encode(), durable=True)
        path.chmod(0o600)


def _unknown(name: str, entries: Iterable[str]) -> ConfigError:
    return ConfigError(f"`revoke_token`: there is no token '{name}', expected one of: {', '.join(entries) or 'none'}")


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes with the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _token(authorization: str) -> str | None:
    """The token of a Bearer header, or of a Basic one, which browsers send: there it is the password."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
