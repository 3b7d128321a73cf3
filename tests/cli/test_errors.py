"""Bad input to `rediff segment`: exit code 2, one message with what was found and what to do, and nothing written."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.array([[-1, 0, 0, 7], [0, -1, 0, 40], [0, 0, 1, -12], [0, 0, 0, 1.0]])
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


def files_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refuses(rediff: Any, tmp_path: Path, toy_bundle: Any) -> Callable[..., str]:
    """refuses(arguments…, **replaced options) → the message, after checking everything that all refusals share."""

    def check(*arguments: object, **replaced: object) -> str:
        options = {"out": tmp_path / "out", "bundle": toy_bundle.path, **replaced}
        flags = [item for name, value in options.items() if value is not None for item in (f"--{name}", value)]
        before = files_in(tmp_path)
        done = rediff("segment", *arguments, *flags)
        assert done.code == 2, done
        assert done.err.startswith("error: ")
        assert done.err.count("error:") == 1
        assert "Traceback" not in done.err
        assert done.out == ""
        assert len(done.err) < 2000
        assert files_in(tmp_path) == before
        return str(done.err)

    return check


@pytest.fixture
def image(toy_folder: Path) -> np.ndarray:
    return nib.load(toy_folder / "toy-t2w.nii.gz").get_fdata(dtype=np.float32)


def store(folder: Path, contrast: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), folder / f"toy-{contrast}.nii.gz")


# --- which files ---


def test_missing_contrast(refuses: Any, toy_folder: Path) -> None:
    (toy_folder / "toy-t2w.nii.gz").unlink()
    message = refuses(toy_folder)
    assert "missing: t2w" in message
    assert "ID-t2w.nii.gz" in message  # a name that would have matched
    assert "toy-t1c.nii.gz" in message  # what was found


def test_two_files_that_could_be_the_same_contrast(refuses: Any, toy_folder: Path) -> None:
    shutil.copy(toy_folder / "toy-t2f.nii.gz", toy_folder / "toy_flair.nii.gz")
    message = refuses(toy_folder)
    assert "more than one file: t2f" in message
    assert "toy-t2f.nii.gz" in message
    assert "toy_flair.nii.gz" in message


@pytest.mark.parametrize("what", ["absent", "empty", "file"])
def test_no_case_at_all(refuses: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("x")
    message = refuses(path)
    assert str(path) in message
    assert "Expected a case folder" in message


def test_neither_folder_nor_files_or_both(refuses: Any, toy_folder: Path) -> None:
    t1n = toy_folder / "toy-t1n.nii.gz"
    assert "--t1n --t1c --t2w --t2f" in refuses()
    assert "--t1n --t1c --t2w --t2f" in refuses(toy_folder, t1n=t1n)
    message = refuses(t1n=t1n, t2w=toy_folder / "toy-t2w.nii.gz")
    assert "given for t1n, t2w" in message
    assert "t1c" in message


def test_channels_that_are_not_the_four_contrasts(refuses: Any, toy_folder: Path) -> None:
    assert "Channels are 't1n,t1c'" in refuses(toy_folder, channels="t1n,t1c")


# --- what is in them ---


def test_contrasts_of_different_shape(refuses: Any, toy_folder: Path, image: np.ndarray) -> None:
    store(toy_folder, "t2w", image[:, :-1])
    message = refuses(toy_folder)
    assert all(said in message for said in ("contrast t1n", "contrast t2w", "26 × 30 × 24", "26 × 29 × 24"))


def test_contrasts_with_different_affines(refuses: Any, toy_folder: Path, image: np.ndarray) -> None:
    moved = AFFINE.copy()
    moved[2, 3] = -9.5
    store(toy_folder, "t2f", image, moved)
    message = refuses(toy_folder)
    assert all(said in message for said in ("contrast t1n", "contrast t2f", "-12.0000", "-9.5000", "resample"))


def test_four_axes(refuses: Any, toy_folder: Path, image: np.ndarray) -> None:
    store(toy_folder, "t1c", np.stack([image, image], axis=-1))
    message = refuses(toy_folder)
    assert "toy-t1c.nii.gz has 4 axes: 26 × 30 × 24 × 2" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(refuses: Any, toy_folder: Path, image: np.ndarray, value: float) -> None:
    image[12, 12, 12:15] = value
    store(toy_folder, "t2w", image)
    message = refuses(toy_folder)
    assert "t2w holds 3 voxels" in message
    assert "set such voxels" in message


@pytest.mark.parametrize(("value", "said"), [(0, "is empty"), (5, "is constant")])
def test_constant_or_empty(refuses: Any, toy_folder: Path, image: np.ndarray, value: int, said: str) -> None:
    store(toy_folder, "t1n", np.full_like(image, value))
    assert f"Contrast t1n {said}" in refuses(toy_folder)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (1, 1, 5), (0.5, 0.5, 1)])
def test_spacing_far_from_1_mm(refuses: Any, toy_folder: Path, image: np.ndarray, spacing: tuple[float, ...]) -> None:
    for contrast in CONTRASTS:
        store(toy_folder, contrast, image, np.diag([*spacing, 1.0]))
    message = refuses(toy_folder)
    assert " × ".join(f"{size:g}" for size in spacing) in message
    assert "Resample" in message


def test_truncated_gzip(refuses: Any, toy_folder: Path) -> None:
    path = toy_folder / "toy-t1n.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    message = refuses(toy_folder)
    assert "toy-t1n.nii.gz is a damaged or truncated gzip file" in message


@pytest.mark.parametrize("content", [b"not an image", b"", gzip.compress(b"not an image" * 100, mtime=0)])
def test_not_a_nifti(refuses: Any, toy_folder: Path, content: bytes) -> None:
    (toy_folder / "toy-t1n.nii.gz").write_bytes(content)
    assert "toy-t1n.nii.gz is not a NIfTI image" in refuses(toy_folder)


def test_not_skull_stripped_works_with_a_warning(
    rediff: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    for contrast in CONTRASTS:
        path = toy_folder / f"toy-{contrast}.nii.gz"
        array = nib.load(path).get_fdata(dtype=np.float32)
        rng = np.random.default_rng(1)
        array[array == 0] = rng.uniform(1, 20, np.count_nonzero(array == 0))
        store(toy_folder, contrast, array)
    done = rediff("segment", toy_folder, "-o", tmp_path / "out", "--bundle", toy_bundle.path, "--no-preview")
    assert done.code == 0
    assert "warning (not-skull-stripped)" in done.err
    assert "false tumour outside the brain is likely" in done.err
    assert '"not-skull-stripped"' in (tmp_path / "out" / "toy-report.json").read_text()


# --- where it goes ---


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_where_the_output_folder_should_be(refuses: Any, toy_folder: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    message = refuses(toy_folder, out=tmp_path / "file" / below)
    assert "is a file" in message
    assert "-o" in message


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_output_folder_not_writable(refuses: Any, toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "is not writable" in refuses(toy_folder, out=tmp_path / "closed" / "out")


def test_output_exists(refuses: Any, rediff: Any, toy_folder: Path, tmp_path: Path, toy_bundle: Any) -> None:
    arguments = ("segment", toy_folder, "-o", tmp_path / "out", "--bundle", toy_bundle.path)
    assert rediff(*arguments).code == 0
    message = refuses(toy_folder)
    assert "toy-seg.nii.gz" in message
    assert "--overwrite" in message
    assert rediff(*arguments, "--overwrite").code == 0


# --- with what ---


def test_bundle_with_a_missing_or_altered_file(refuses: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))
    with (folder / "conditioner.onnx").open("ab") as file:
        file.write(b"\0")
    message = refuses(toy_folder, bundle=folder)
    assert "conditioner.onnx" in message
    assert "altered" in message
    (folder / "conditioner.onnx").unlink()
    assert "conditioner.onnx (graph 'conditioner') is missing" in refuses(toy_folder, bundle=folder)
    (folder / "manifest.json").unlink()
    assert "manifest.json is missing" in refuses(toy_folder, bundle=folder)


def test_unknown_engine_and_device(refuses: Any, toy_folder: Path) -> None:
    message = refuses(toy_folder, engine="abacus")
    assert "engine 'abacus' does not exist" in message
    assert "onnxruntime" in message
    message = refuses(toy_folder, device="tpu")
    assert "device 'tpu'" in message
    assert "cuda:N" in message


@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_a_gpu_that_is_not_there(refuses: Any, toy_folder: Path, engine: str) -> None:
    message = refuses(toy_folder, engine=engine, device="cuda:99")
    assert "cuda:99" in message


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("samples", 0), ("threads", 0)])
def test_numbers_out_of_range(refuses: Any, toy_folder: Path, option: str, value: int) -> None:
    message = refuses(toy_folder, **{option: value})
    assert option in message
    assert "expected" in message


WITHOUT = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocked())
sys.argv = ["rediff", *sys.argv[2:]]
from rediffinet.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("absent", "engine", "commands"),
    [
        ("onnxruntime", "onnxruntime", ["pip install 'rediffinet[cpu]'"]),
        ("openvino", "openvino", ["pip install 'rediffinet[cpu]'"]),
        ("torch", "torch", ["pip install 'rediffinet[train]'"]),
        ("onnxruntime,openvino,torch", "auto", ["pip install 'rediffinet[cpu]'", "pip install 'rediffinet[train]'"]),
    ],
)
def test_an_absent_extra_is_named_with_its_pip_command(
    toy_folder: Path, toy_bundle: Any, tmp_path: Path, absent: str, engine: str, commands: list[str]
) -> None:
    arguments = ["segment", toy_folder, "-o", tmp_path / "out", "--bundle", toy_bundle.path, "--engine", engine]
    done = subprocess.run([sys.executable, "-c", WITHOUT, absent, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert all(command in done.stderr for command in commands)
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


# --- with a mask from elsewhere ---


def test_masks_that_do_not_fit(refuses: Any, toy_folder: Path, tmp_path: Path, make_toy_bundle: Any) -> None:
    mask = np.zeros((26, 30, 24), np.uint8)
    nib.save(nib.Nifti1Image(mask[1:], AFFINE), tmp_path / "small.nii.gz")
    nib.save(nib.Nifti1Image(mask + 7, AFFINE), tmp_path / "seven.nii.gz")
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")
    message = refuses(toy_folder, **{"baseline-mask": tmp_path / "small.nii.gz"})
    assert "label map" in message and "25 × 30 × 24" in message and "26 × 30 × 24" in message
    assert "holds the values 7" in refuses(toy_folder, **{"baseline-mask": tmp_path / "seven.nii.gz"})
    assert "absent.nii" in refuses(toy_folder, **{"baseline-mask": tmp_path / "absent.nii"})
    message = refuses(
        toy_folder, bundle=make_toy_bundle(model="unet").path, **{"baseline-mask": tmp_path / "mask.nii.gz"}
    )
    assert "'unet'" in message and "refines none" in message


def test_one_mask_for_several_cases(refuses: Any, toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "cohort" / "a")
    shutil.copytree(toy_folder, tmp_path / "cohort" / "b")
    message = refuses(tmp_path / "cohort", **{"baseline-mask": toy_folder / "toy-t1n.nii.gz"})
    assert "one file for 2 cases" in message and "Give a folder" in message


# --- and ours ---


def test_a_bug_exits_with_1_and_asks_for_a_report(
    rediff: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rediffinet.method.preprocessing.brain_box", lambda _: 1 / 0)
    done = rediff("segment", toy_folder, "-o", tmp_path / "out", "--bundle", toy_bundle.path)
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "report it" in done.err
    assert not (tmp_path / "out").exists()


# --- precisions ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp8"}, "precision 'fp8' does not exist; there is: fp32, fp16, bf16, int8"),
        ({"precision": "fp16", "engine": "onnxruntime"}, "has no fp16 graphs, it has fp32"),
        ({"precision": "bf16", "engine": "onnxruntime"}, "engine 'onnxruntime' on cpu cannot run bf16"),
        ({"precision": "int8", "engine": "torch"}, "engine 'torch' on cpu cannot run int8"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"engine": "openvino", "device": "cuda:0"}, "engine 'openvino' runs on 'cpu' only"),
    ],
)
def test_precisions_and_devices_that_cannot_be(
    refuses: Any, toy_folder: Path, options: dict[str, str], said: str
) -> None:
    assert said in refuses(toy_folder, **options)
