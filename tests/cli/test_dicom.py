"""`rediff segment` from DICOM to DICOM: a small head as four series, and an Orthanc server on loopback."""

import json
import runpy
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.phantom import HeadPhantom, make_head_phantom

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
pytest.importorskip("highdicom", reason="needs the extra [dicom]")
pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")

HELPERS = Path(__file__).parent.parent / "rediffinet" / "io" / "dicom" / "conftest.py"
write_single = runpy.run_path(str(HELPERS))["write_single"]
QUICK = ("--steps", 1, "--samples", 1, "--no-preview", "--json")


@pytest.fixture(scope="module")
def head() -> HeadPhantom:
    return make_head_phantom(2, (48, 48, 40), tumour="enhancing")


@pytest.fixture(scope="module")
def study(head: HeadPhantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four series in one folder, and a localiser."""
    folder = tmp_path_factory.mktemp("study")
    for number, (contrast, image) in enumerate(zip(("t1n", "t1c", "t2w", "t2f"), head.images, strict=True), 1):
        write_single(folder, image, head.affine, contrast, number)
    write_single(folder, head.images[0][:, :, :1], head.affine, "t1n", 9, SeriesDescription="localizer")
    return folder


@pytest.fixture(scope="module")
def mask(head: HeadPhantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nibabel as nib

    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nib.save(nib.Nifti1Image(head.brain.astype(np.uint8), head.affine), path)
    return path


@pytest.mark.slow
def test_from_dicom_to_dicom(rediff: Any, toy_bundle: Any, study: Path, mask: Path, tmp_path: Path) -> None:
    arguments = ("--brain-mask", mask, "--dicom-seg", "--dicom-rtstruct", "--dicom-sr", "--bundle", toy_bundle.path)
    done = rediff("segment", study, "-o", tmp_path / "out", *arguments, *QUICK)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    modalities = {}
    for kind in ("seg", "rtstruct", "sr"):
        dataset = pydicom.dcmread(tmp_path / "out" / report["outputs"][f"dicom-{kind}-t1c"])
        modalities[kind] = dataset.Modality
        assert dataset.PatientID == "PHANTOM-1"
        assert dataset.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.1"
    assert modalities == {"seg": "SEG", "rtstruct": "RTSTRUCT", "sr": "SR"}
    import nibabel as nib

    native = np.asarray(nib.load(tmp_path / "out" / report["outputs"]["seg-t1c"]).dataobj)
    seg = pydicom.dcmread(tmp_path / "out" / report["outputs"]["dicom-seg-t1c"])
    whole = [item.SegmentLabel for item in seg.SegmentSequence].index("whole tumour") + 1
    numbers = [
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    voxels = sum(int(plane.sum()) for plane, number in zip(seg.pixel_array, numbers, strict=True) if number == whole)
    assert voxels == np.count_nonzero(native)
    names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*")]
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert not any("Nobody" in text or "PHANTOM-1" in text for text in (*names, *texts, done.err, done.out))


def test_dicom_objects_need_dicom_input(rediff: Any, toy_bundle: Any, phantoms: Path) -> None:
    done = rediff("segment", phantoms, "--dicom-seg", "--bundle", toy_bundle.path)
    assert done.code == 2
    assert "DICOM input" in done.err


def test_a_prepared_study_passes_through(rediff: Any, toy_bundle: Any, make_toy_images: Any, tmp_path: Path) -> None:
    import nibabel as nib

    images, affine = make_toy_images().astype(int), np.diag([-1.0, -1, 1, 1])
    for number, (contrast, image) in enumerate(zip(("t1n", "t1c", "t2w", "t2f"), images, strict=True), 1):
        write_single(tmp_path / "study", image, affine, contrast, number)
    done = rediff("prepare", tmp_path / "study", "-o", tmp_path / "case", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["passed_through"]
    for contrast, image in zip(("t1n", "t1c", "t2w", "t2f"), images, strict=True):
        written = nib.load(tmp_path / "case" / report["outputs"][contrast])
        assert np.array_equal(np.asarray(written.dataobj), image)
        assert np.allclose(written.affine, affine)
    arguments = ("--bundle", toy_bundle.path, *QUICK)
    one = rediff("segment", tmp_path / "study", "--dicom-seg", "-o", tmp_path / "out", *arguments)
    assert one.code == 0, one.err
    native = nib.load(tmp_path / "out" / json.loads(one.out)["outputs"]["seg-t1c"])
    two = rediff("segment", tmp_path / "case", "-o", tmp_path / "two", *arguments)
    assert two.code == 0, two.err
    direct = nib.load(tmp_path / "two" / json.loads(two.out)["outputs"]["segmentation"])
    assert np.count_nonzero(native.dataobj) == np.count_nonzero(direct.dataobj) > 0


def test_dicom_without_preparation_says_what_to_do(rediff: Any, toy_bundle: Any, study: Path, tmp_path: Path) -> None:
    done = rediff("segment", study, "-o", tmp_path / "out", "--bundle", toy_bundle.path)
    assert done.code == 2
    assert "holds DICOM" in done.err
    assert "Use --prepare, and --dicom-seg" in done.err


@pytest.mark.parametrize("command", ["prepare", "segment"])
def test_a_study_is_of_dicom(rediff: Any, phantoms: Path, command: str) -> None:
    done = rediff(command, phantoms, "--study", "1.2.3")
    assert done.code == 2
    assert "--study is of DICOM input" in done.err


def test_finished_studies_cannot_be_skipped(rediff: Any, toy_bundle: Any, study: Path, tmp_path: Path) -> None:
    given = ("--bundle", toy_bundle.path, "-o", tmp_path / "out")
    done = rediff("segment", study, "--prepare", "--skip-existing", *given)
    assert done.code == 2
    assert "--overwrite for DICOM" in done.err


def test_an_unclear_study_is_refused_with_the_table(rediff: Any, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    for path in (tmp_path / "study").glob("t2f-*"):
        path.unlink()
    done = rediff("prepare", tmp_path / "study", "-o", tmp_path / "out")
    assert done.code == 2
    assert "Say which it is: --t2f NUMBER. To go on without it: --allow-missing." in done.err
    assert "localizer" in done.err
    assert not (tmp_path / "out").exists()


# --- a server -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Orthanc on loopback with DICOMweb, gone at the end."""
    program = shutil.which("Orthanc")
    plugin = next(Path("/usr/share/orthanc/plugins").glob("*DicomWeb*.so"), None)
    plugin = plugin or next(Path("/usr/lib").rglob("libOrthancDicomWeb.so*"), None)
    if program is None or plugin is None:
        pytest.skip("no Orthanc with DICOMweb here: apt-get install orthanc orthanc-dicomweb")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "Name": "test",
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/system", timeout=2).read()
                break
            except OSError:
                if process.poll() is not None:
                    pytest.skip(f"Orthanc does not start here: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.25)
        else:
            pytest.skip("Orthanc did not answer within a minute")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def stow(address: str, paths: list[Path]) -> None:
    """Store instances by DICOMweb (STOW-RS)."""
    boundary = uuid.uuid4().hex
    parts = b"".join(
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % (boundary.encode(), path.read_bytes())
        for path in paths
    )
    request = urllib.request.Request(
        f"{address}/dicom-web/studies",
        parts + b"--%b--\r\n" % boundary.encode(),
        {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def query(address: str, path: str) -> Any:
    """Ask DICOMweb (QIDO-RS)."""
    request = urllib.request.Request(f"{address}/dicom-web/{path}", headers={"Accept": "application/dicom+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"[]")


@pytest.mark.slow
def test_from_the_archive_and_back(
    rediff: Any, toy_bundle: Any, orthanc: str, study: Path, mask: Path, tmp_path: Path
) -> None:
    stow(orthanc, sorted(study.glob("*.dcm")))
    uid = "1.2.826.0.1.3680043.8.498.1"
    assert len(query(orthanc, f"studies/{uid}/series?Modality=MR")) == 5
    identity = json.loads(urllib.request.urlopen(f"{orthanc}/studies", timeout=60).read())[0]
    (tmp_path / "study.zip").write_bytes(
        urllib.request.urlopen(f"{orthanc}/studies/{identity}/archive", timeout=60).read()
    )
    arguments = ("--brain-mask", mask, "--dicom-seg", "--bundle", toy_bundle.path)
    done = rediff("segment", tmp_path / "study.zip", "-o", tmp_path / "out", *arguments, *QUICK)
    assert done.code == 0, done.err
    path = tmp_path / "out" / json.loads(done.out)["outputs"]["dicom-seg-t1c"]
    stow(orthanc, [path])
    (found,) = query(orthanc, f"studies/{uid}/series?Modality=SEG")
    assert found["0020000E"]["Value"] == [str(pydicom.dcmread(path).SeriesInstanceUID)]
