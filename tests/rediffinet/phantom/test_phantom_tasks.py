"""Phantoms of other tasks: the same head and tumour, in the task's contrasts, regions, label values and file names."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from rediffinet.errors import ConfigError
from rediffinet.phantom import make_phantom
from rediffinet.task import TASKS, Roles, Task, converted, find_task, regions_of

SMALL = (80, 96, 72)
TWO = TASKS["glioma-2023"].model_copy(
    update={"name": "two", "contrasts": ("t2f", "t1c"), "suffixes": {"t2f": ("flair",), "t1c": ("t1ce",)}}
)


@pytest.fixture(scope="module")
def brats() -> Any:
    return make_phantom(3, SMALL, tumour="enhancing")


@pytest.mark.parametrize("name", ["glioma-2021", "glioma-decathlon", "pediatric-2023"])
def test_another_numbering_of_the_same_tumour(brats: Any, name: str) -> None:
    phantom = make_phantom(3, SMALL, tumour="enhancing", task=TASKS[name])
    np.testing.assert_array_equal(phantom.images, brats.images)
    np.testing.assert_array_equal(converted(phantom.labels, TASKS[name], TASKS["glioma-2023"]), brats.labels)


def test_two_contrasts_are_those_of_four(brats: Any) -> None:
    phantom = make_phantom(3, SMALL, tumour="enhancing", task=TWO)
    np.testing.assert_array_equal(phantom.images, brats.images[[3, 1]])
    np.testing.assert_array_equal(phantom.labels, brats.labels)


@pytest.mark.parametrize(("name", "extra"), [("glioma-post-2024", "RC"), ("pediatric-2024", "CC")])
def test_a_region_without_a_role_is_a_piece_that_looks_like_fluid(brats: Any, name: str, extra: str) -> None:
    task = TASKS[name]
    phantom = make_phantom(3, SMALL, tumour="enhancing", task=task)
    found = dict(zip(task.region_names, regions_of(phantom.labels, task), strict=True))
    before = dict(zip(["WT", "TC", "ET"], regions_of(brats.labels, TASKS["glioma-2023"]), strict=True))
    assert 30 < found[extra].sum() < before["TC"].sum()
    for region in ("WT", "TC", "ET"):
        carved = found[extra] if extra == "RC" else np.zeros_like(found[extra])
        np.testing.assert_array_equal(found[region], before[region] & ~carved)
    changed = (phantom.images != brats.images).any(axis=0)
    assert changed[found[extra]].mean() > 0.9
    near = ndimage.binary_dilation(found[extra], iterations=8)
    assert abs(phantom.images - brats.images)[:, ~near].max() <= 2  # thick slices and noise reach a little further
    inside = ndimage.binary_erosion(found[extra])
    assert phantom.images[2][inside].mean() > brats.images[2][inside].mean()  # t2w: brighter than necrosis


def test_no_tumour_has_no_cavity() -> None:
    assert not make_phantom(3, SMALL, tumour="none", task=TASKS["glioma-post-2024"]).labels.any()


def test_a_task_without_enhancement_and_without_a_whole() -> None:
    core_only = Task.model_validate(
        {
            "name": "core",
            "contrasts": ["t1c"],
            "labels": [{"value": 9, "name": "core", "colour": "#000000"}],
            "regions": [{"name": "core", "labels": [9]}],
            "roles": {"core": "core"},
        }
    )
    phantom = make_phantom(3, SMALL, tumour="enhancing", task=core_only)
    brats = make_phantom(3, SMALL, tumour="enhancing")
    np.testing.assert_array_equal(phantom.labels == 9, np.isin(brats.labels, (1, 3)))
    assert phantom.images.shape == (1, *SMALL)


def test_files_have_the_endings_of_the_task(rediff: Any, tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(TWO.model_dump_json())
    done = rediff("phantom", tmp_path / "out", "--task", tmp_path / "two.json", "--shape", 48, 56, 44)
    assert done.code == 0
    (folder,) = (tmp_path / "out").iterdir()
    names = {path.name.removeprefix(f"{folder.name}-") for path in folder.iterdir()}
    assert names == {"flair.nii.gz", "t1ce.nii.gz", "seg.nii.gz"}
    assert nib.load(folder / f"{folder.name}-flair.nii.gz").shape == (48, 56, 44)


def test_a_contrast_that_is_not_drawn_and_regions_without_roles() -> None:
    with pytest.raises(ConfigError, match=r"'x' has the contrast adc, .*\nExpected contrasts out of t1n, t1c"):
        make_phantom(0, SMALL, task=TWO.model_copy(update={"name": "x", "contrasts": ("t1c", "adc")}))
    with pytest.raises(ConfigError, match="gives no region a role"):
        make_phantom(0, SMALL, task=TWO.model_copy(update={"roles": Roles()}))
    assert find_task("brats2023").contrasts == ("t1n", "t1c", "t2w", "t2f")
