"""What a bundle does not do is refused before a case is queued, in the words of the form."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from rediffinet.bundle import Manifest, read_manifest
from rediffinet.clinic.service.problems import in_fields
from rediffinet.clinic.service.requests import check_possible, parse_request, read_request
from rediffinet.errors import RediffError

ALL = ("t1n", "t1c", "t2w", "t2f")
MARGIN = {"margin": {"scale_mm": [9.0, 9.0, 9.0]}}
SCORED = {
    "metrics": {
        "missing_contrasts": {
            "t2f": {"protocol": "brats2023-gli", "cases": 3, "dice": {"WT": 0.8}, "hd95": {"WT": 9.0}},
        }
    }
}


def check(manifest: Manifest, files: tuple[str, ...], **texts: str) -> None:
    check_possible(read_request(parse_request(texts)), files, manifest)


@pytest.mark.parametrize(
    ("bundle", "files", "texts", "said"),
    [
        ({}, ALL, {"margin": "true"}, "leave `margin=true` out"),
        ({}, ("archive",), {"margin": "true"}, "leave `margin=true` out"),
        ({}, (), {"study": "1.2", "margin": "true"}, "leave `margin=true` out"),
        ({}, ALL[:3], {"allow_missing": "true"}, "was not scored"),
        (SCORED, ALL[1:], {"allow_missing": "true"}, "without t2f"),
        (SCORED | MARGIN, ALL[:3], {"allow_missing": "true", "margin": "true"}, "a case without t2f"),
        ({"diffusion": {"train_steps": 50}}, ALL, {"steps": "51"}, "steps: got 51, expected 1 to 50"),
        ({}, ("archive",), {"channels": "t1n,t1c,t2w,pd"}, "Channels are 't1n,t1c,t2w,pd'"),
        ({}, ALL, {"dicom_seg": "true"}, "DICOM alone"),
        ({}, ALL, {"dicom_rtstruct": "true", "prepare": "true"}, "DICOM alone"),
        ({}, ALL, {"examination": "1.2"}, "`examination`"),
        ({}, ALL, {"series": "t1c=3", "prepare": "true"}, "`series`"),
        ({}, (*ALL, "brain_mask"), {}, "`prepare=true`"),
    ],
)
def test_what_the_bundle_or_the_files_do_not_have(
    make_toy_bundle: Callable[..., Any],
    bundle: dict[str, Any],
    files: tuple[str, ...],
    texts: dict[str, str],
    said: str,
) -> None:
    manifest = read_manifest(make_toy_bundle(**bundle).path)
    with pytest.raises(RediffError) as refused:
        check(manifest, files, **texts)
    told = in_fields(str(refused.value))
    assert said in told
    assert "--" not in told and "True" not in told


def test_a_bundle_of_other_contrasts_takes_archives_alone(make_toy_bundle: Callable[..., Any]) -> None:
    manifest = read_manifest(make_toy_bundle().path)
    task = manifest.recipe.task.model_copy(update={"contrasts": ("t1n", "t1c", "t2w", "pd")})
    other = manifest.model_copy(update={"recipe": manifest.recipe.model_copy(update={"task": task})})
    with pytest.raises(RediffError, match=r"(?s)t1n, t1c, t2w, pd, not of t1n, t1c, t2w, t2f.*`archive`"):
        check(other, ALL)
    check(other, ("archive",))


def test_what_it_has_is_taken(make_toy_bundle: Callable[..., Any]) -> None:
    manifest = read_manifest(make_toy_bundle(**MARGIN, **SCORED).path)
    check(manifest, ALL, margin="true", allow_missing="true", channels="t1n,t1c,t2w,t2f", steps="100", samples="64")
    check(manifest, ALL[:3], allow_missing="true")
    check(manifest, ("archive",), margin="true", allow_missing="true", dicom_seg="true", examination="1.2")
    check(manifest, (), study="1.2", dicom_sr="true")
    check(manifest, (*ALL, "brain_mask"), prepare="true")
