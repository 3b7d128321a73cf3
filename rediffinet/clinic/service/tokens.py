"""API tokens: made here, shown once, kept as hashes.

A token holds 256 random bits, so a plain SHA-256 of it cannot be searched; a password would need a slow hash.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically

PREFIX = "rediff_"
OPEN = ""
"""The owner of what is asked without a token, where none is needed."""


@dataclass(frozen=True)
class Tokens:
    """Names by hash."""

    names: dict[str, str]

    def owner(self, authorization: str | None) -> str | None:
        """Whose token an Authorization header holds; None: no known one. Without any token all is OPEN's."""
        if not self.names:
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
    """Make a token, keep its hash, return it. A second one of a name replaces the first."""
    if not name.isidentifier():
        message = f"`new_token`: got '{name}', expected a name of letters, digits and underscores"
        raise ConfigError(message)
    read_tokens(path)
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    token = PREFIX + secrets.token_urlsafe(32)
    entries[name] = {"sha256": _hash(token), "made": datetime.now(UTC).isoformat(timespec="seconds")}
    write_atomically(path, (json.dumps(entries, indent=1) + "\n").encode(), parents=True, durable=True)
    path.chmod(0o600)
    return token


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
