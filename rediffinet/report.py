"""The report of a case: what ran, on what, how long, and what came out. The same object becomes report.json."""

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rediffinet.task import Task

REPORT_SCHEMA = "rediffinet-report/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BundleInfo(_Part):
    """The bundle used; sha256 of its manifest, which holds the hashes of its graphs."""

    name: str
    sha256: str
    model: str


class EngineInfo(_Part):
    """Requested is what was asked for; the rest is what really ran, read back from the engine."""

    requested: str
    used: str
    provider: str
    device: str
    precision: str
    version: str
    choice: str


class BaselineInfo(_Part):
    """Where U(I) comes from: the bundle's own network, a label map in a file or an array, or nowhere ("none").

    path and sha256: of the file. labels: the convention by which a label map's numbers were read.
    """

    source: Literal["bundle", "file", "array", "none"]
    path: str | None = None
    sha256: str | None = None
    labels: str | None = None


class SamplingInfo(_Part):
    """windows: refinement windows; denoiser_calls = windows × samples × steps.

    A model that draws no noise has no scheduler, 0 steps and 0 samples.
    """

    scheduler: str | None
    steps: int
    samples: int
    seed: int
    windows: int
    denoiser_calls: int


class Seconds(_Part):
    """Wall-clock seconds per stage."""

    load: float = 0.0
    normalise: float = 0.0
    baseline: float = 0.0
    refine: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    total: float = 0.0


class InputInfo(_Part):
    """One image as it was read; spacing in mm."""

    contrast: str
    path: str
    sha256: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]


class PerRegionMl(BaseModel):
    """Millilitres of the regions, by their names in the task: WT, TC, ET in BraTS."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, float]

    if TYPE_CHECKING:

        def __getattr__(self, region: str) -> float: ...

    @property
    def by_region(self) -> dict[str, float]:
        """The numbers, in the order of the task."""
        return dict(self.__pydantic_extra__)


class PerRegionCount(BaseModel):
    """Voxels whose membership in a region differs between the two written label maps, after postprocessing."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, int]

    if TYPE_CHECKING:

        def __getattr__(self, region: str) -> int: ...


class Volumes(_Part):
    """Volumes of the two written label maps, after postprocessing; no baseline for a model without one."""

    baseline: PerRegionMl | None
    refined: PerRegionMl


class UncertaintyInfo(_Part):
    """Probability of a wrong label as the samples see it.

    mean_in_tumour: mean over the refined whole tumour; uncertain_ml: volume where it exceeds 0.25;
    sample_disagreement: mean standard deviation of Δ̂ over samples in the refined windows, 0 for a single sample.
    """

    mean_in_tumour: float
    uncertain_ml: float
    sample_disagreement: float


class MarginInfo(_Part):
    """The band in which the boundaries lie with that probability: by region, its median half-width in mm.

    None for a region that was not found, of whose boundary nothing is known.
    """

    share: float
    median_mm: dict[str, float | None]

    def described(self) -> str:
        """In words, of the regions that were found; empty where none was."""
        found = [f"{name} ±{mm:.1f}" for name, mm in self.median_mm.items() if mm is not None]
        return f"{self.share:.0%} margin: {', '.join(found)} mm" if found else ""


class Warning_(_Part):  # noqa: N801 (Warning is a builtin)
    """Something a reader of the result should know."""

    code: str
    message: str


class NativeInfo(_Part):
    """The result on the grid of an original series of a prepared case: that grid, volumes of its regions in ml."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    volumes_ml: dict[str, float]


class Report(_Part):
    """Everything about one case; see docs/report.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(default=REPORT_SCHEMA, alias="schema")
    case: str
    rediffinet: str = Field(default_factory=lambda: version("rediffinet"))
    platform: str = Field(
        default_factory=lambda: f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    intended_use: str
    bundle: BundleInfo
    engine: EngineInfo
    baseline: BaselineInfo = BaselineInfo(source="bundle")
    sampling: SamplingInfo
    options: dict[str, bool | int | float | str | None] | None = None
    seconds: Seconds
    peak_rss_mb: float
    inputs: list[InputInfo]
    missing_contrasts: list[str] = Field(default_factory=list)
    labels: dict[str, int]
    task: Task | None = None
    volumes_ml: Volumes
    flipped_voxels: PerRegionCount | None
    uncertainty: UncertaintyInfo
    margin: MarginInfo | None = None
    warnings: list[Warning_]
    native: dict[str, NativeInfo] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    output_bytes: dict[str, int] = Field(default_factory=dict)
    output_sha256: dict[str, str] = Field(default_factory=dict)

    def written(self, files: Mapping[str, tuple[str, int, str]], seconds: float) -> "Report":
        """The report of a result whose `files` took `seconds` to write. files: name, bytes and SHA-256 by kind."""
        told = {
            "outputs": {kind: name for kind, (name, _, _) in files.items()},
            "output_bytes": {kind: size for kind, (_, size, _) in files.items()},
            "output_sha256": {kind: sha256 for kind, (_, _, sha256) in files.items()},
        }
        total = self.seconds.total - self.seconds.write + seconds
        spent = self.seconds.model_copy(update={"write": seconds, "total": total})
        return self.model_copy(update={**told, "seconds": spent})

    def to_json(self) -> str:
        """JSON text with the documented key names."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary with the documented key names."""
        return self.model_dump(mode="json", by_alias=True)


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (2²⁰ bytes); 0 on Windows, which keeps no such count."""
    if sys.platform == "win32":
        return 0.0
    if sys.platform == "linux":  # getrusage keeps the peak of the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
