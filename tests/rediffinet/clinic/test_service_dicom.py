"""Raw scans and DICOM through `rediff serve`: a zip of an examination becomes a result, and objects on its series."""

import gzip
import hashlib
import io
import re
import runpy
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
pytest.importorskip("highdicom", reason="needs the extra [dicom]")
pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")


# The tests of the command line have the phantom's series and an Orthanc.
COMMAND_LINE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "cli" / "test_dicom.py")))
head, study, mask, orthanc = COMMAND_LINE.head, COMMAND_LINE.study, COMMAND_LINE.mask, COMMAND_LINE.orthanc
UID_OF_STUDY = "1.2.826.0.1.3680043.8.498.1"
QUICK = {"steps": "1", "samples": "1", "preview": "false", "uncertainty": "false"}


def archive(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"DICOM/S1/{path.name}")
    return content.getvalue()


@pytest.mark.slow
def test_an_examination_becomes_a_result_with_objects_for_its_series(
    service: Any, study: Path, mask: Path, head: Any
) -> None:
    service.start()
    fields = {**QUICK, "dicom_seg": "true", "dicom_sr": "true", "series": "t1n=1,t1c=2"}
    sent = service.send({"archive": archive(study), "brain_mask": mask.read_bytes()}, **fields)
    case = service.wait(sent.json()["id"], seconds=900)
    assert case["state"] == "done", case
    assert case["case"].startswith("study-")
    files = case["result"]["files"]
    assert {"dicom-seg-t1c", "dicom-sr-t1c", "seg-t1c", "preparation", "preparation-picture"} <= set(files)
    seg = pydicom.dcmread(io.BytesIO(service.client.get(f"/{files['dicom-seg-t1c']['url']}").content))
    source = next(header for header in map(pydicom.dcmread, study.iterdir()) if header.SeriesNumber == 2)
    assert (seg.Modality, seg.StudyInstanceUID, seg.Rows) == ("SEG", source.StudyInstanceUID, source.Rows)
    referenced = seg.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == source.SeriesInstanceUID
    # the page shows the images on the grid of the result, not the series
    scene = service.client.get(f"/v1/cases/{case['id']}/scene").json()
    assert [image["contrast"] for image in scene["images"]] == ["t1n", "t1c", "t2w", "t2f"]
    import nibabel as nib

    grids = set()
    for url in (*case["result"]["images"].values(), files["segmentation"]["url"]):
        image = nib.Nifti1Image.from_bytes(gzip.decompress(service.client.get(f"/{url}").content))
        grids.add((image.shape, np.round(image.affine, 3).tobytes()))
    assert len(grids) == 1
    # what tells who the patient is, is gone from the folder but for the objects
    folder = service.data / "cases" / case["id"]
    assert not (folder / "archive").exists() and not (folder / "in" / "archive.zip").exists()
    assert "PHANTOM-1" not in service.log.read_text() and "Nobody" not in service.log.read_text()
    with zipfile.ZipFile(io.BytesIO(service.client.get(f"/{case['result']['zip']}").content)) as packed:
        assert set(packed.namelist()) == {entry["name"] for entry in files.values()}


def test_what_cannot_be_done_with_what_was_sent(service: Any, images: dict[str, bytes], study: Path) -> None:
    service.start()
    unclear = io.BytesIO()
    with zipfile.ZipFile(unclear, "w") as packed:
        for path in study.iterdir():
            if not path.name.startswith("t2f"):
                packed.write(path, path.name)
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as packed:
        packed.write(next(study.iterdir()), "a.dcm")
        packed.writestr("b.dcm", archive(study)[:2000] + archive(study))
    nifti = io.BytesIO()
    with zipfile.ZipFile(nifti, "w") as packed:
        for contrast, content in images.items():
            packed.writestr(f"P1-{contrast}.nii.gz", content)
    for sent, fields, said in (
        ({"archive": nifti.getvalue()}, {"dicom_seg": "true"}, "DICOM alone"),
        ({"archive": nifti.getvalue()}, {"examination": "1.2"}, "`examination`"),
        ({"archive": unclear.getvalue()}, {}, "t2f"),
        ({"archive": nested.getvalue()}, {}, "another archive"),
    ):
        case = service.wait(service.send(sent, **fields).json()["id"])
        assert (case["state"], case["problem"]["status"]) == ("failed", 422), case
        assert said in case["problem"]["detail"]
        assert str(service.data) not in case["problem"]["detail"]
    for field, value in (("native", "t9"), ("series", "t1c"), ("series", "t1c=1;t2w=2"), ("series", "t9=1")):
        answer = service.send(images, **{field: value})
        assert answer.status_code == 422 and field in answer.json()["detail"]


def test_one_of_two_examinations_is_chosen_by_its_name(service: Any, study: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for path in study.iterdir():
        (both / path.name).write_bytes(path.read_bytes())
        if path.name.startswith("t1n"):  # of the second there is t1n alone
            other = pydicom.dcmread(path)
            other.StudyInstanceUID += ".2"
            other.SeriesInstanceUID = f"{UID_OF_STUDY}.2.{other.SeriesNumber}"
            other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            other.save_as(both / f"second-{path.name}", enforce_file_format=True)
    service.start()

    def problem(**fields: str) -> str:
        case = service.wait(service.send({"archive": archive(both)}, **fields).json()["id"])
        assert (case["state"], case["problem"]["status"]) == ("failed", 422), case
        return str(case["problem"]["detail"])

    unclear = problem()
    assert "2 studies" in unclear and "`examination=NAME`" in unclear
    names = set(re.findall(r"study-[0-9a-f]{10}", unclear))
    assert len(names) == 2, unclear
    absent = problem(examination="study-0000000000")
    assert "study-0000000000" in absent and all(name in absent for name in names)
    chosen = problem(examination=f"{UID_OF_STUDY}.2")
    assert "studies" not in chosen and "t2f" in chosen  # that one, which lacks three contrasts


def correct(service: Any, case: dict[str, Any]) -> None:
    seg = service.client.get(f"/{case['result']['files']['segmentation']['url']}").content
    voxels = np.asanyarray(nib.Nifti1Image.from_bytes(gzip.decompress(seg)).dataobj).astype(np.uint8)
    about = {"from": case["result"]["files"]["segmentation"]["name"], "sha256": hashlib.sha256(seg).hexdigest()}
    body = gzip.compress(voxels.tobytes(order="F"))
    answer = service.client.post(f"/v1/cases/{case['id']}/corrections", params={**about, "who": "A"}, content=body)
    assert answer.status_code == 201, answer.text


@pytest.mark.slow
def test_from_an_archive_and_back(service: Any, orthanc: str, study: Path, mask: Path) -> None:
    COMMAND_LINE.stow(orthanc, sorted(study.glob("*.dcm")))
    service.start("--dicomweb", f"{orthanc}/dicom-web")
    fields = {"study": UID_OF_STUDY, "dicom_seg": "true"}
    sent = service.send({"brain_mask": mask.read_bytes()}, **QUICK, **fields)
    assert sent.status_code == 202, sent.text
    missing = service.send({"brain_mask": mask.read_bytes()}, study="1.2.3").json()["id"]
    case = service.wait(sent.json()["id"], seconds=900)
    assert case["state"] == "done", case
    for _ in range(2):  # twice is once
        answer = service.client.post(f"/v1/cases/{case['id']}/store")
        assert answer.status_code == 200, answer.text
        assert answer.json()["stored"] == [case["result"]["files"]["dicom-seg-t1c"]["name"]]
        (found,) = COMMAND_LINE.query(orthanc, f"studies/{UID_OF_STUDY}/series?Modality=SEG")
    content = service.client.get(f"/{case['result']['files']['dicom-seg-t1c']['url']}").content
    assert found["0020000E"]["Value"] == [str(pydicom.dcmread(io.BytesIO(content)).SeriesInstanceUID)]
    correct(service, case)
    address = f"/v1/cases/{case['id']}/store"
    refused = service.client.post(address)
    assert (refused.status_code, "has corrections (1)" in refused.json()["detail"]) == (409, True)
    assert service.client.post(address, params={"uncorrected": True}).json() == answer.json()
    told = service.wait(missing)
    assert (told["state"], told["problem"]["status"]) == ("failed", 422)
    assert "no MR series" in told["problem"]["detail"] or "no such study" in told["problem"]["detail"]
    assert service.client.post(f"/v1/cases/{missing}/store").status_code == 409
