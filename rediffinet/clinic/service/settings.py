"""What a service is started with."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rediffinet.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 2**20
UID = r"[0-9]+(\.[0-9]+)*"
"""What a DICOM UID looks like."""


def private_folder(path: Path) -> None:
    """Make a folder, and those above, that nobody but its owner may look into; one that is there stays as it is."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


@dataclass(frozen=True)
class Limits:
    """What one client, one upload and one case may take.

    queue: cases that wait, are received or computed at a time. upload_bytes: of a request, as sent. unpacked_bytes and
    files: of an archive. upload_s: for receiving a request. case_s: for computing a case. attempts: how often a case is
    begun when the computing process dies of it. corrections: label maps of a case that clients corrected.
    """

    queue: int = 32
    upload_bytes: int = 1024 * MIB
    unpacked_bytes: int = 4096 * MIB
    files: int = 5000
    upload_s: float = 900.0
    case_s: float = 1800.0
    attempts: int = 2
    corrections: int = 100


@dataclass(frozen=True)
class Archive:
    """address: the root of DICOMweb, such as http://127.0.0.1:8042/dicom-web. authorization: that header, or empty."""

    address: str
    authorization: str = ""

    def check(self) -> None:
        """Raise ConfigError for what is no address of a web server."""
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            message = f"`dicomweb`: got '{self.address}', expected an address such as http://archive:8042/dicom-web"
            raise ConfigError(message)


@dataclass(frozen=True)
class Settings:
    """Where the service listens and keeps its jobs, and on what it computes.

    retention_s: how long a case is kept. archive: where studies are fetched from and objects stored.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    bundle: Path | None = None
    engine: str = "auto"
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    retention_s: float = 24 * 3600.0
    limits: Limits = field(default_factory=Limits)
    without_token: bool = False
    archive: Archive | None = None

    @property
    def jobs(self) -> Path:
        """One folder for each case, named by its id."""
        return self.data / "cases"

    @property
    def database(self) -> Path:
        """The jobs."""
        return self.data / "jobs.sqlite"

    @property
    def tokens(self) -> Path:
        """Hashes of the tokens."""
        return self.data / "tokens.json"

    def check(self, *, has_tokens: bool) -> None:
        """Raise ConfigError for a service that would be open to everybody on the network, and for a wrong archive."""
        if self.archive is not None:
            self.archive.check()
        if self.host not in LOOPBACK and not has_tokens and not self.without_token:
            message = (
                f"`host={self.host}` is reached from other machines, and there is no token: anybody could send cases "
                f"and read results.\nMake a token with:  rediff serve --data {self.data} --new-token NAME\n"
                "or say `without_token=True` where something else guards the port."
            )
            raise ConfigError(message)
