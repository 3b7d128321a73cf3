"""Writing phantoms: BraTS-2023 layout, headers, all or nothing, no overwriting by accident."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import ConfigError, OutputError
from rediffinet.phantom import case as case_module
from rediffinet.phantom import make_phantom, write_phantoms

TINY = (40, 44, 36)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_layout_and_names(tmp_path: Path) -> None:
    seen: list[Path] = []
    folders = write_phantoms(tmp_path / "new" / "out", 2, 4, shape=TINY, on_case=seen.append)
    assert seen == folders
    assert sorted((tmp_path / "new" / "out").iterdir()) == folders
    for folder in folders:
        assert re.fullmatch(r"BraTS-GLI-9\d{4}-000", folder.name)
        expected = {f"{folder.name}-{suffix}.nii.gz" for suffix in ("t1n", "t1c", "t2w", "t2f", "seg")}
        assert {f.name for f in folder.iterdir()} == expected


def test_files_hold_the_phantom_on_the_brats_grid(tmp_path: Path) -> None:
    (folder,) = write_phantoms(tmp_path, 1, 9, shape=TINY)
    phantom = make_phantom(9, TINY)
    for channel, suffix in enumerate(("t1n", "t1c", "t2w", "t2f", "seg")):
        nifti = nib.load(folder / f"{folder.name}-{suffix}.nii.gz")
        stored = np.asarray(nifti.dataobj)
        assert stored.dtype == (np.uint8 if suffix == "seg" else np.int16)
        assert np.array_equal(stored, phantom.labels if suffix == "seg" else phantom.images[channel])
        assert np.array_equal(nifti.affine, phantom.affine)
        assert "".join(nib.aff2axcodes(nifti.affine)) == "LPS"
        assert np.allclose(nifti.get_qform(), nifti.get_sform())
        assert (int(nifti.header["sform_code"]), int(nifti.header["qform_code"])) == (1, 1)
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert nifti.header.get_zooms() == (1, 1, 1)
        assert b"phantom" in nifti.header["descrip"].item()


def test_files_do_not_depend_on_the_number_of_cases(tmp_path: Path) -> None:
    (one,) = write_phantoms(tmp_path / "a", 1, 7, shape=TINY)
    first, _ = write_phantoms(tmp_path / "b", 2, 7, shape=TINY)
    assert files(one) == files(first)


def test_existing_case_is_kept_without_overwrite(tmp_path: Path) -> None:
    (folder,) = write_phantoms(tmp_path, 1, 1, shape=TINY)
    before = files(tmp_path)
    with pytest.raises(OutputError, match=rf"(?s)1 of the 2 cases.*{folder.name}.*`overwrite=True`"):
        write_phantoms(tmp_path, 2, 2, shape=TINY)
    assert files(tmp_path) == before


def test_overwrite_replaces_the_case_and_nothing_else(tmp_path: Path) -> None:
    (folder,) = write_phantoms(tmp_path, 1, 1, shape=TINY)
    (folder / "notes.txt").write_text("mine")
    write_phantoms(tmp_path, 1, 2, shape=TINY, overwrite=True)
    (fresh,) = write_phantoms(tmp_path / "fresh", 1, 2, shape=TINY)
    assert files(folder) == {**files(fresh), "notes.txt": b"mine"}


def test_a_case_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(image: nib.Nifti1Image, path: Path) -> None:
        if "t2f" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr(case_module.nib, "save", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_phantoms(tmp_path / "out", 1, 1, shape=TINY)
    assert list((tmp_path / "out").iterdir()) == []


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    for out in (in_the_way, in_the_way / "below"):
        with pytest.raises(OutputError, match="cannot write phantoms"):
            write_phantoms(out, 1, 0, shape=TINY)
    assert in_the_way.read_text() == "not a folder"


@pytest.mark.parametrize("cases", [0, -3, 10_001])
def test_number_of_cases_is_checked(tmp_path: Path, cases: int) -> None:
    with pytest.raises(ConfigError, match=str(cases)):
        write_phantoms(tmp_path / "out", cases, 0, shape=TINY)
    assert not (tmp_path / "out").exists()


def test_runs_without_scipy_and_torch() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('scipy', 'torch', 'monai')));"
        "from rediffinet.phantom import make_phantom; make_phantom(0, (32, 36, 32))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
