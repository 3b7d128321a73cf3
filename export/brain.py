"""The brain-extraction bundle: deepbet's two networks from its wheel, as ONNX.

    pip download --no-deps deepbet==1.0.2
    python -m rediffinet.export.brain deepbet-1.0.2-py3-none-any.whl --out rediffinet/bundles/brain

The wheel holds TorchScript, of which only the legacy exporter of torch can make ONNX. Weights are stored as float16
(see `rediffinet.export.graphs`); the gate holds the files in ONNX Runtime against the TorchScript modules.
"""

import argparse
import hashlib
import io
import json
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch

from rediffinet.engines import open_engine
from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.errors import ExportError
from rediffinet.export.graphs import SMALL, store_as_float16
from rediffinet.files import new_folder
from rediffinet.phantom import make_head_phantom
from rediffinet.prepare.brain import BOX_SIZE, MASK_SIZE, network_input
from rediffinet.prepare.brain_bundle import MANIFEST, BrainGraph, BrainManifest, BrainParity, Provenance, file_sha256

GraphName = Literal["box", "mask"]
FILES: dict[GraphName, Literal["box.onnx", "mask.onnx"]] = {"box": "box.onnx", "mask": "mask.onnx"}
NETWORKS: dict[GraphName, tuple[str, int]] = {
    "box": ("data/models/bbox_model.pt", BOX_SIZE),
    "mask": ("data/models/model.pt", MASK_SIZE),
}
LEAST_DICE = 0.999
LARGEST_MEAN = 1e-3
LICENCE = "deepbet-1.0.2.dist-info/LICENSE"
INPUT, OUTPUT = "image", "tissue"

Volume = npt.NDArray[np.float32]


def export_brain(wheel: Path, out: Path) -> BrainManifest:
    """Write the bundle folder; `out` must not exist. Raises ExportError when a graph is too far from its network."""
    with new_folder(out) as folder, zipfile.ZipFile(wheel) as archive:
        (folder / "LICENSE").write_bytes(archive.read(LICENCE))
        graphs: dict[GraphName, BrainGraph] = {}
        for name, (file, size) in NETWORKS.items():
            content = archive.read(file)
            module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
            path = folder / FILES[name]
            write_graph(module, size, path)
            graphs[name] = BrainGraph(
                file=FILES[name],
                sha256=file_sha256(path),
                size=size,
                source=f"{wheel.name}:{file}",
                source_sha256=hashlib.sha256(content).hexdigest(),
                parity=check_parity(name, module, path, size),
            )
        manifest = BrainManifest(
            name="deepbet-1.0.2",
            graphs=graphs,
            provenance=Provenance(
                package="deepbet 1.0.2 (PyPI)",
                sha256=file_sha256(wheel),
                homepage="https://github.com/wwu-mmll/deepbet",
                citation=(
                    "Fisch et al., deepbet: Fast brain extraction of T1-weighted MRI using Convolutional Neural "
                    "Networks, Computers in Biology and Medicine 179 (2024) 108845"
                ),
            ),
        )
        (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return manifest


def write_graph(module: Any, size: int, path: Path) -> None:
    """image (1, 1, size, size, size) → tissue (1, 2, size, size, size), whose second channel is brain."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 1, size, size, size),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=17,
            dynamo=False,
        )
    model = onnx.load_model(str(path))
    large = {name for name, value in module.named_parameters() if value.numel() >= SMALL}
    store_as_float16(model, large)
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def check_parity(name: str, module: Any, path: Path, size: int) -> BrainParity:
    """The file in ONNX Runtime against the TorchScript module with its own float32 weights, on a phantom of a head."""
    head = make_head_phantom(1).images[1]
    image = network_input(head, size, *np.quantile(head, (0.005, 0.995)))
    with torch.inference_mode():
        wanted = module(torch.from_numpy(image))[0, 1].numpy()
    shape = (1, 1, size, size, size)
    spec = GraphSpec(
        name, path, (TensorSpec(INPUT, "float32", shape),), (TensorSpec(OUTPUT, "float32", (1, 2, *shape[2:])),)
    )
    with open_engine("onnxruntime") as engine:
        got = engine.load(spec)(image=image)[OUTPUT][0, 1]
    dice = (
        2
        * np.count_nonzero((got > 0.5) & (wanted > 0.5))
        / (np.count_nonzero(got > 0.5) + np.count_nonzero(wanted > 0.5))
    )
    parity = BrainParity(
        dice=float(dice), mean=float(np.abs(got - wanted).mean()), largest=float(np.abs(got - wanted).max())
    )
    if not (parity.dice >= LEAST_DICE and parity.mean <= LARGEST_MEAN):
        message = f"graph '{name}' differs from its network: {parity}. Expected a Dice of {LEAST_DICE} at least."
        raise ExportError(message)
    return parity


def main() -> None:
    """The command at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    print(export_brain(given.wheel, given.out).model_dump_json(indent=2))


if __name__ == "__main__":
    main()
