"""Graphs that OpenVINO compiled before, in the user's cache: opening a bundle again takes a third of the time.

One file per graph, shapes and settings; its name is the hash of all that it depends on, so what does not fit is never
found, and what is found is checked against the hash of its content before OpenVINO is given it. Safe to remove.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rediffinet.engines.base import TensorSpec
from rediffinet.errors import OutputError
from rediffinet.files import cache_folder, file_sha256, write_atomically

KEPT = 32
"""Files in the cache; those that were used longest ago go."""

Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
Shapes = tuple[tuple[int, ...], ...]


class CompiledGraphs:
    """What was compiled from one ONNX file with these settings."""

    def __init__(self, model: Path, settings: Mapping[str, Any]) -> None:
        self._model = file_sha256(model)
        self._settings = json.dumps(settings, sort_keys=True, default=str)

    def signature(self) -> Signature | None:
        """The graph's inputs and outputs, when it was read before."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path("signature").read_bytes())
            inputs, outputs = (
                tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in content[kind])
                for kind in ("inputs", "outputs")
            )
            return inputs, outputs
        return None

    def read(self, shapes: Shapes) -> bytes | None:
        """What `write` was given for these shapes, or None."""
        path = self._path(shapes)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, stored = content[:32], content[32:]
        if hashlib.sha256(stored).digest() != digest:
            return None
        with contextlib.suppress(OSError):
            path.touch()
        return stored

    def write(self, shapes: Shapes, compiled: Any, signature: Signature) -> None:
        """Keep it for the next process. It only saves time: a cache that cannot be written is no error."""
        stored = compiled if isinstance(compiled, bytes) else compiled.getvalue()
        ends = {
            kind: [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
            for kind, tensors in zip(("inputs", "outputs"), signature, strict=True)
        }
        with contextlib.suppress(OutputError, OSError):
            write_atomically(self._path(shapes), hashlib.sha256(stored).digest() + stored, parents=True)
            write_atomically(self._path("signature"), json.dumps(ends).encode(), parents=True)
            files = [(path.stat().st_mtime, path) for path in self._path(shapes).parent.glob("*.compiled")]
            for _, path in sorted(files)[: -KEPT or None]:
                path.unlink(missing_ok=True)

    def _path(self, what: object) -> Path:
        key = hashlib.sha256(f"{self._model} {self._settings} {what}".encode()).hexdigest()[:40]
        return cache_folder("openvino", f"{key}.{'json' if what == 'signature' else 'compiled'}")
