"""A label map from elsewhere in the baseline's place: how it is read, what is done with it, and what is said of it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from rediffinet.errors import CaseError, ConfigError, LabelError
from rediffinet.io.cases import Case, load_case
from rediffinet.io.conventions import ConventionError
from rediffinet.io.masks import decide_masks, find_mask, mask_from_labels, read_baseline_mask
from rediffinet.io.outputs import save_result
from rediffinet.method.normalise import brain_box, normalise
from rediffinet.segmenter import Segmenter, SegmentOptions
from rediffinet.task import find_task

AFFINE = np.array([[-1, 0, 0, 7], [0, -1, 0, 40], [0, 0, 1, -12], [0, 0, 0, 1.0]])
EVERYWHERE = SegmentOptions(refine_everywhere=True)


@pytest.fixture
def labels() -> np.ndarray:
    """A label map on the toy's grid: a ball of edema, in it necrosis and some enhancing tumour, a little off."""
    places = np.stack(np.indices((26, 30, 24)))

    def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
        return ((places - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) <= radius**2

    return np.select([ball((11, 15, 12), 2), ball((12, 14, 11), 4), ball((12, 15, 11), 7)], [3, 1, 2], 0).astype("u1")


def regions(label_map: np.ndarray) -> np.ndarray:
    return np.stack([label_map > 0, np.isin(label_map, (1, 3)), label_map == 3])


def store(path: Path, label_map: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(label_map, affine), path)
    return path


# --- what is done with it ---


@pytest.mark.parametrize("condition", ["probability", "mask"])
def test_the_mask_is_refined_as_the_formula_says(
    make_toy_bundle: Any, toy_case: Case, labels: np.ndarray, condition: str
) -> None:
    toy = make_toy_bundle(refiner={"condition": condition})
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(toy_case, options=EVERYWHERE, baseline=labels)
    box = brain_box(toy_case.images)
    image = normalise(toy_case.images[(slice(None), *box)]).astype(np.float64)
    mask = regions(labels)[(slice(None), *box)]
    delta = toy.formula.x0(np.concatenate([2.0 * mask - 1.0, image]))
    wt, tc, et = mask ^ (delta > 0.5)
    assert np.array_equal(result.crop_labels, np.select([et, tc, wt], [3, 1, 2], 0))
    assert np.array_equal(result.baseline_labels, labels)
    assert (result.labels != labels).sum() > 50
    assert result.report.baseline.model_dump() == {
        "source": "array",
        "path": None,
        "sha256": None,
        "labels": "glioma-2023",
    }
    assert pytest.approx((labels > 0).sum() / 1000, abs=5e-4) == result.report.volumes_ml.baseline.WT


def test_the_bundles_own_mask_given_back_gives_the_same_flips(make_toy_bundle: Any, toy_case: Case) -> None:
    """With a hard condition the refiner cannot tell whose mask it is."""
    toy = make_toy_bundle(refiner={"condition": "mask"})
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        own = segmenter.segment(toy_case, options=EVERYWHERE)
        again = segmenter.segment(toy_case, options=EVERYWHERE, baseline=own.baseline_labels)
    nested = np.array_equal(own.baseline_labels, again.baseline_labels)
    assert nested
    differs = own.labels != again.labels  # where the own masks were not nested, decoding has made them so
    assert differs.mean() < 0.01


def test_the_mask_is_written_as_given_and_only_the_refined_map_is_cleaned(
    make_toy_bundle: Any, toy_case: Case, labels: np.ndarray
) -> None:
    toy = make_toy_bundle(decision={"small_components": {"min_voxels": 100_000}})
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(toy_case, baseline=labels)
    assert np.array_equal(result.baseline_labels, labels)
    assert not result.labels.any()


def test_windows_lie_around_the_mask(toy_bundle: Any, toy_case: Case, labels: np.ndarray) -> None:
    small = np.where(np.arange(26)[:, None, None] < 7, labels, 0).astype("u1")
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        assert segmenter.segment(toy_case, baseline=np.zeros_like(labels)).report.sampling.windows == 0
        few = segmenter.segment(toy_case, baseline=small).report.sampling.windows
        assert 0 < few < segmenter.segment(toy_case, baseline=labels).report.sampling.windows


def test_nothing_of_the_mask_outside_the_brain_is_lost(toy_bundle: Any, toy_case: Case, labels: np.ndarray) -> None:
    labels[0, 0, 0] = labels[25, 1, 3] = 2
    assert not toy_case.images[:, 0, 0, 0].any()
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(toy_case, baseline=labels)
    assert np.array_equal(result.baseline_labels, labels)


def test_another_voxel_size_and_storage_order(make_toy_bundle: Any, make_toy_images: Any, labels: np.ndarray) -> None:
    toy = make_toy_bundle(spacing_mm=(2.0, 2.0, 2.0))
    images = make_toy_images()[:, ::-1].transpose(0, 2, 1, 3)
    stored_labels = labels[::-1].transpose(1, 0, 2)
    affine = np.array([[0, 1, 0, -18], [-1, 0, 0, 40], [0, 0, 1, -12], [0, 0, 0, 1.0]])
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        plain = segmenter.segment(Case.from_arrays("toy", make_toy_images(), AFFINE), baseline=labels)
        turned = segmenter.segment(Case.from_arrays("toy", images, affine), baseline=stored_labels)
    assert np.array_equal(plain.baseline_labels, labels)
    assert np.array_equal(turned.baseline_labels, stored_labels)
    assert np.array_equal(turned.labels.transpose(1, 0, 2)[::-1], plain.labels)
    assert (plain.labels != labels).any()
    edge = ndimage.binary_dilation(labels > 0, iterations=5)
    assert not (plain.labels > 0)[~edge].any()


@pytest.mark.parametrize("model", ["unet", "diff-unet"])
def test_a_model_that_refines_nothing_takes_none(
    make_toy_bundle: Any, toy_case: Case, labels: np.ndarray, model: str
) -> None:
    toy = make_toy_bundle(model=model)
    with (
        Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter,
        pytest.raises(ConfigError, match=f"'{model}'.*refines none.*discrepancy-unet.*rediffinet"),
    ):
        segmenter.segment(toy_case, baseline=labels)


# --- how it is read ---


def test_a_file_of_another_schema_and_order(toy_bundle: Any, toy_folder: Path, tmp_path: Path, labels: Any) -> None:
    old = np.where(labels == 3, 4, labels).astype(np.float32)
    stored = store(tmp_path / "mask.nii", old[:, ::-1], AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 29], [0, 0, 1, 0], [0, 0, 0, 1]]))  # fmt: skip # noqa: E501
    case = load_case(toy_folder)
    mask = read_baseline_mask(stored, case)
    assert np.array_equal(mask.regions, regions(labels))
    assert (mask.path, mask.sha256) == (str(stored), hashlib.sha256(stored.read_bytes()).hexdigest())
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(case, baseline=mask)
    paths = save_result(result, tmp_path / "out").paths
    assert np.array_equal(np.asarray(nib.load(paths["baseline"]).dataobj), labels)  # in the bundle's schema
    told = result.report.to_dict()["baseline"]
    assert told == {"source": "file", "path": str(stored), "sha256": mask.sha256, "labels": "glioma-2021"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: (a[:-1], AFFINE), "different grids"),
        (lambda a: (a, np.diag([-1.0, -1.0, 1.0, 1.0])), "different grids"),
        (lambda a: (a.astype(np.float32) / 2, AFFINE), "holds the values 0, 0.5, 1, 1.5"),
        (lambda a: (np.where(a == 1, 4, a), AFFINE), "fit the convention 'glioma-post-2024'.*name it"),
    ],
)
def test_files_that_do_not_fit(toy_folder: Path, tmp_path: Path, labels: Any, change: Any, said: str) -> None:
    path = store(tmp_path / "mask.nii.gz", *change(labels))
    with pytest.raises(LabelError, match=said):
        read_baseline_mask(path, load_case(toy_folder))


ORDERS = {"nnunet": (0, 2, 1, 3), "pediatric-2024": (0, 2, 4, 1), "brats2021": (0, 1, 2, 4)}


@pytest.mark.parametrize("convention", ORDERS)
def test_masks_of_a_convention_that_is_named(toy_folder: Path, tmp_path: Path, labels: Any, convention: str) -> None:
    """The same tumour, numbered otherwise, has the same regions: from a file and from memory."""
    renumbered = np.array(ORDERS[convention], np.uint8)[labels]
    case, named = load_case(toy_folder), find_task(convention)
    for mask in (
        read_baseline_mask(store(tmp_path / "mask.nii.gz", renumbered), case, convention=named),
        mask_from_labels(renumbered, case, convention=named),
    ):
        assert np.array_equal(mask.regions, regions(labels))
        assert mask.convention == named.name


def test_a_cavity_is_no_tumour_in_a_mask(toy_folder: Path, tmp_path: Path, labels: Any) -> None:
    with_cavity = labels.copy()
    with_cavity[labels == 1] = 4
    path = store(tmp_path / "mask.nii.gz", with_cavity)
    mask = read_baseline_mask(path, load_case(toy_folder), convention=find_task("brats2024"))
    assert np.array_equal(mask.regions, regions(np.where(labels == 1, 0, labels)))


def test_one_convention_is_decided_from_all_masks(tmp_path: Path, labels: Any) -> None:
    """A file whose 4 could be tumour or cavity is not read before the others have been looked at."""
    old = np.where(labels == 3, 4, labels)
    store(tmp_path / "A.nii.gz", np.where(labels == 3, 0, labels))
    store(tmp_path / "B.nii.gz", old)
    (tmp_path / "C.nii.gz").write_bytes(b"no")
    assert decide_masks(tmp_path, ["A"]).name == "glioma-2023"
    assert decide_masks(tmp_path, ["A", "B", "C", "absent"]).name == "glioma-2021"
    store(tmp_path / "D.nii.gz", np.where(labels == 1, 4, labels))
    with pytest.raises(ConventionError, match="glioma-post-2024"):
        decide_masks(tmp_path, "ABD")
    store(tmp_path / "D.nii.gz", labels)
    with pytest.raises(ConventionError, match=r"(?s)B.nii.gz has labels of 'glioma-2021'.*D.nii.gz.*'glioma-2023'"):
        decide_masks(tmp_path, "ABD")


def test_the_command_refuses_masks_of_two_conventions_before_it_works(
    rediff: Any, toy_bundle: Any, toy_folder: Path, tmp_path: Path, labels: Any
) -> None:
    cohort, masks, out = tmp_path / "cohort", tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for name, map_ in (("A", labels), ("B", np.where(labels == 3, 4, labels))):
        (cohort / name).mkdir(parents=True)
        for path in toy_folder.iterdir():
            shutil.copy(path, cohort / name / path.name.replace("toy", name))
        store(masks / f"{name}.nii.gz", map_)
    arguments = ("segment", cohort, "--bundle", toy_bundle.path, "--baseline-mask", masks, "-o", out, "--no-preview")
    done = rediff(*arguments)
    assert done.code == 2
    assert "in 2 conventions" in done.err
    assert not out.exists()
    done = rediff(*arguments, "--labels", "brats2024")
    assert done.code == 0
    assert "The masks are read as 'glioma-post-2024' (NETC = 1, SNFH = 2, ET = 3, RC = 4)" in done.err
    assert (np.asarray(nib.load(out / "B-baseline.nii.gz").dataobj) == np.where(labels == 3, 0, labels)).all()
    done = rediff("segment", cohort, "--bundle", toy_bundle.path, "--labels", "brats2024")
    assert done.code == 2
    assert "--labels tells how --baseline-mask is read" in done.err


def test_no_file_and_no_image(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mask.nii.gz").write_bytes(b"no")
    for name in ("mask.nii.gz", "absent.nii.gz"):
        with pytest.raises(CaseError, match=name):
            read_baseline_mask(tmp_path / name, load_case(toy_folder))


def test_arrays_that_do_not_fit(toy_case: Case, labels: np.ndarray) -> None:
    with pytest.raises(LabelError, match=r"\(25, 30, 24\).*\(26, 30, 24\)"):
        mask_from_labels(labels[1:], toy_case)
    with pytest.raises(LabelError, match="The baseline's label map holds the values 0, 2, 4, 6"):
        mask_from_labels(labels * 2, toy_case)


def test_a_folder_of_masks_is_looked_through_by_name(tmp_path: Path) -> None:
    for name in ("A.nii.gz", "A1-seg.nii.gz", "B_seg.nii", "C-baseline.nii.gz", "C.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert find_mask(tmp_path, "A").name == "A.nii.gz"
    assert find_mask(tmp_path, "A1").name == "A1-seg.nii.gz"
    assert find_mask(tmp_path, "B").name == "B_seg.nii"
    assert find_mask(tmp_path / "A.nii.gz", "B").name == "A.nii.gz"
    with pytest.raises(CaseError, match=r"holds C-baseline.nii.gz, C.nii.gz of case C"):
        find_mask(tmp_path, "C")
    with pytest.raises(CaseError, match=r"(?s)holds no mask of case D.*D-seg.nii.gz"):
        find_mask(tmp_path, "D")
