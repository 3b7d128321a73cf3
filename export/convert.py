"""Bundles of older versions, made to fit this one: the graphs stay as they are, the manifest is written anew."""

import json
import shutil
from pathlib import Path
from typing import Any

from rediffinet.bundle import CONVERTIBLE, MANIFEST, SCHEMA, Bundle, open_bundle
from rediffinet.errors import BundleError, OutputError
from rediffinet.files import new_folder, parse_json
from rediffinet.task import find_task

FROM_RECIPE = ("model", "orientation", "spacing_mm", "normalisation", "baseline", "diffusion", "trust", "uncertainty")
"""Entries of the first schema that the recipe holds as they were."""
KEPT = ("name", "rediffinet", "graphs", "training", "precision_gate", "licence", "intended_use")


def convert_bundle(source: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Write a bundle of an older schema to `out` in the schema of this version, plans included, and open it.

    Results stay the same to the bit. Raises BundleError when `source` is no bundle of an older schema or has a file
    that is missing or altered, OutputError when `out` exists and `overwrite` is off.
    """
    values = _read(source)
    if out.exists() and not (overwrite and (out / MANIFEST).is_file()):
        message = f"{out} exists already. Overwrite a bundle, or choose another folder."
        raise OutputError(message)
    with new_folder(out) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / MANIFEST).write_text(json.dumps(converted_manifest(values), indent=2) + "\n", encoding="utf-8")
        try:
            open_bundle(folder)
        except BundleError as error:
            raise BundleError(str(error).replace(str(folder), str(source))) from None  # the folder is gone then
    return open_bundle(out)


def _read(source: Path) -> dict[str, Any]:
    try:
        values = parse_json((source / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"bundle {source}: {error}. Expected a folder with a {MANIFEST}."
        raise BundleError(message) from None
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found == SCHEMA:
        message = f"bundle {source} is of this version's schema already ('{SCHEMA}'); there is nothing to convert."
        raise BundleError(message)
    if found not in CONVERTIBLE:
        message = f"bundle {source}: schema {found!r}, expected one of {', '.join(CONVERTIBLE)}."
        raise BundleError(message)
    return dict(values)


def converted_manifest(old: dict[str, Any]) -> dict[str, Any]:
    """A manifest of the first schema in that of this version. Raises BundleError when an entry is missing."""
    try:
        postprocess = old.get("postprocess", {})
        refiner = dict(old["refiner"]) if old.get("refiner") else None
        thresholds = [0.5] * 3 if refiner is None else refiner.pop("thresholds")
        whole = 1.0 if refiner is None else refiner.pop("component_threshold", 1.0)
        recipe = {name: old[name] for name in FROM_RECIPE if name in old}
        recipe["task"] = find_task(old.get("labels", "brats2023")).model_dump(mode="json")
        recipe["refiner"] = refiner
        recipe["decision"] = _decision(thresholds, whole, postprocess)
        manifest = {name: old[name] for name in KEPT if name in old}
    except (KeyError, AttributeError, TypeError) as error:
        message = f"the manifest does not fit the schema that it names ({error!r}); export the bundle again"
        raise BundleError(message) from None
    metrics = _metrics(old.get("metrics", {}), recipe["decision"])
    return {"schema_version": SCHEMA, "recipe": recipe, "metrics": metrics, **manifest}


def _decision(thresholds: list[float], whole: float, postprocess: dict[str, Any]) -> dict[str, Any]:
    small = {key: value for key, value in postprocess.items() if key != "min_enhancing"}
    return {
        "adding": thresholds,
        "removing": thresholds,
        "whole_components": whole,
        "small_components": small,
        "unsure_enhancement": postprocess.get("min_enhancing", 0.0),
    }


def _metrics(old: dict[str, Any], decision: dict[str, Any]) -> dict[str, Any]:
    """What calibration measured; the decisions of the folds, which were kept in parts, are put together."""
    metrics = dict(old)
    postprocess = metrics.pop("postprocess", None)
    parts = [metrics.pop(f"{name}_of_the_other_folds", None) for name in _IN_PARTS]
    metrics.pop("component_threshold", None)
    thresholds, whole, enhancing = parts
    if postprocess is not None and thresholds is not None:
        metrics["decision"] = decision
        metrics["decision_of_the_other_folds"] = {
            fold: _decision(
                values,
                (whole or {}).get(fold, 1.0),
                {**postprocess, "min_enhancing": (enhancing or {}).get(fold, postprocess.get("min_enhancing", 0.0))},
            )
            for fold, values in thresholds.items()
        }
    return metrics


_IN_PARTS = ("thresholds", "component_threshold", "min_enhancing")
