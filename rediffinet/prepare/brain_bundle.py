"""The bundle of the brain extraction: two ONNX graphs, where they come from, and their hashes, checked at opening."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rediffinet.bundle import MANIFEST
from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.errors import BundleError
from rediffinet.files import file_sha256

__all__ = ["MANIFEST", "BrainBundle", "BrainGraph", "BrainManifest", "BrainParity", "Provenance", "file_sha256"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrainParity(_Part):
    """The file against the network it was made of, on a phantom: Dice of the masks, differences of probabilities."""

    dice: float
    mean: float
    largest: float


class BrainGraph(_Part):
    """One network: image (1, 1, size, size, size) → tissue (1, 2, size, size, size), whose second channel is brain."""

    file: Literal["box.onnx", "mask.onnx"]
    sha256: str
    size: int
    source: str
    source_sha256: str
    parity: BrainParity


class Provenance(_Part):
    """Where the networks come from; sha256 of the package's file."""

    package: str
    sha256: str
    homepage: str
    citation: str


class BrainManifest(_Part):
    """box finds the brain roughly in the whole field of view, mask finely in the box."""

    schema_version: Literal["rediffinet-brain/1"] = "rediffinet-brain/1"
    name: str
    graphs: dict[Literal["box", "mask"], BrainGraph]
    weights: Literal["float16"] = "float16"
    provenance: Provenance
    licence: str = "MIT"
    intended_use: str = "T1-weighted images, with contrast agent or without. Research use only."


@dataclass(frozen=True)
class BrainBundle:
    """An opened, verified bundle."""

    path: Path
    manifest: BrainManifest
    sha256: str
    """Of the manifest, which holds the hashes of the graphs."""

    def graph(self, name: Literal["box", "mask"]) -> GraphSpec:
        """What an engine needs to load a graph."""
        entry = self.manifest.graphs[name]
        inside = (entry.size,) * 3
        return GraphSpec(
            name,
            self.path / entry.file,
            (TensorSpec("image", "float32", (1, 1, *inside)),),
            (TensorSpec("tissue", "float32", (1, 2, *inside)),),
        )


def open_brain_bundle(path: str | Path | None = None) -> BrainBundle:
    """Read the bundle and verify its files; None opens the one in the package.

    Raises BundleError naming what is missing, altered or unreadable.
    """
    folder = Path(str(resources.files("rediffinet"))) / "bundles" / "brain" if path is None else Path(path)
    source = folder / MANIFEST
    try:
        content = source.read_bytes()
        manifest = BrainManifest.model_validate_json(content)
    except OSError as error:
        message = f"brain bundle {folder}: {MANIFEST} cannot be read ({error.strerror or error}). Reinstall rediffinet."
        raise BundleError(message) from None
    except ValidationError as error:
        message = f"brain bundle {folder}: {MANIFEST} does not fit its schema ({error.error_count()} problems)."
        raise BundleError(f"{message} Copy the bundle again.") from None
    for name, entry in manifest.graphs.items():
        file = folder / entry.file
        if not file.is_file():
            raise BundleError(f"brain bundle {folder}: {entry.file} (graph '{name}') is missing. Copy it again.")
        found = file_sha256(file)
        if found != entry.sha256:
            message = (
                f"brain bundle {folder}: {entry.file} (graph '{name}') was altered: sha256 is {found}, "
                f"the manifest says {entry.sha256}. Copy the bundle again."
            )
            raise BundleError(message)
    return BrainBundle(folder, manifest, file_sha256(source))
