"""What a client may ask of a case, and of this bundle, checked before it is queued."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rediffinet.bundle import Manifest
from rediffinet.clinic.service.archives import check_file_name
from rediffinet.clinic.service.problems import Problem
from rediffinet.clinic.service.settings import UID
from rediffinet.clinic.service.uploads import ARCHIVE, BRAIN_MASK, CONTRASTS
from rediffinet.errors import CaseError
from rediffinet.io.naming import parse_channels
from rediffinet.segmenter import SegmentOptions

_CONTRAST = "(t1n|t1c|t2w|t2f)"


class CaseRequest(BaseModel):
    """Options of one case; None takes the bundle's default."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("case", min_length=1, max_length=100, description="Name of the case and of its files.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the noise.")
    steps: int | None = Field(None, ge=1, le=100, description="Sampling steps.")
    samples: int | None = Field(None, ge=1, le=64, description="Noise samples per window.")
    refine_everywhere: bool = Field(False, description="Refine the whole brain (slow).")
    postprocess: bool = Field(True, description="Remove small components.")
    uncertainty: bool = Field(True, description="Write the uncertainty map.")
    probabilities: bool = Field(False, description="Write the probabilities of the regions.")
    margin: bool = Field(False, description="Write where the boundaries lie with 90 %, where the bundle has that.")
    preview: bool = Field(True, description="Write a picture.")
    html_report: bool = Field(False, description="Write the report as a page that prints.")
    channels: str | None = Field(None, max_length=100, description="Contrasts of ID_0000 … in an archive.")
    allow_missing: bool = Field(
        False, description="One contrast may be absent, where the bundle has scores of such cases."
    )
    prepare: bool = Field(False, description="Raw scans: register, extract the brain, bring to 1 mm. DICOM always is.")
    native: str = Field(
        "t1c",
        max_length=40,
        pattern=rf"^(all|none|{_CONTRAST}(,{_CONTRAST})*)$",
        description="Original series of a prepared case that results are written for: t1c, t1c,t2f, all, none.",
    )
    study: str | None = Field(
        None,
        max_length=64,
        pattern=rf"^{UID}$",
        description="In place of files: StudyInstanceUID of an examination in the archive of the service (DICOMweb).",
    )
    examination: str | None = Field(
        None,
        pattern=r"^[0-9A-Za-z.-]{1,64}$",
        description="Which study of several in an archive of DICOM: its StudyInstanceUID, or the name in the problem.",
    )
    series: str | None = Field(
        None,
        max_length=600,
        pattern=rf"^{_CONTRAST}=[^,=]{{1,100}}(,{_CONTRAST}=[^,=]{{1,100}})*$",
        description="DICOM series of a contrast by number, UID or description, where it is unclear: t1n=3,t1c=7.",
    )
    dicom_seg: bool = Field(False, description="For DICOM: write a segmentation object (BINARY).")
    dicom_labelmap: bool = Field(False, description="For DICOM: write the segmentation as a LABELMAP.")
    dicom_rtstruct: bool = Field(False, description="For DICOM: write contours.")
    dicom_sr: bool = Field(False, description="For DICOM: write the segmentation and a report of volumes.")

    @property
    def options(self) -> SegmentOptions:
        """As the segmenter takes them."""
        return SegmentOptions(self.steps, self.samples, self.refine_everywhere, self.postprocess)

    @property
    def objects(self) -> bool:
        """Whether a DICOM object is asked for."""
        return self.dicom_seg or self.dicom_labelmap or self.dicom_rtstruct or self.dicom_sr


FIELDS = tuple(CaseRequest.model_fields)
NOT_DICOM = "DICOM objects are written for DICOM alone, for they refer to its images. Send DICOM files."
NOT_CHOSEN = "`examination` and `series` choose in DICOM, and this is none. Leave them out, or send DICOM files."
NOT_RAW = "A brain mask is for raw scans. Send `prepare=true` with it, or leave it out."


def parse_request(texts: dict[str, str]) -> dict[str, Any]:
    """The request of form fields, JSON-ready: `read_request` reads it. Raises Problem 422 that names the field."""
    try:
        request = CaseRequest.model_validate({key: value for key, value in texts.items() if value != ""})
        check_file_name(request.name)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except CaseError as error:
        raise Problem(422, f"name: {error}") from None
    return request.model_dump(mode="json") | {"named": "name" in texts}


def read_request(request: dict[str, Any]) -> CaseRequest:
    """What `parse_request` made."""
    return CaseRequest.model_validate({key: value for key, value in request.items() if key != "named"})


def check_nifti(request: CaseRequest) -> None:
    """Raise CaseError for what is of DICOM alone."""
    if request.objects:
        raise CaseError(NOT_DICOM)
    if request.examination or request.series:
        raise CaseError(NOT_CHOSEN)


def check_possible(request: CaseRequest, files: Collection[str], manifest: Manifest) -> None:
    """Raise CaseError or ConfigError for what the bundle does not do, or not with these files (the names of the parts).

    What is in an archive or a study is looked at when it is its turn.
    """
    task = manifest.recipe.task
    request.options.plan(manifest.recipe)
    parse_channels(request.channels.split(",") if request.channels else None, task)
    alone = ARCHIVE not in files and request.study is None
    missing = [contrast for contrast in task.contrasts if contrast not in files] if alone else []
    if alone and not set(task.contrasts) >= set(files) - {BRAIN_MASK}:
        message = f"Bundle '{manifest.name}' is of {', '.join(task.contrasts)}, not of {', '.join(CONTRASTS)}."
        raise CaseError(f"{message} Send the images of a case in one zip, as `archive`.")
    manifest.scores_without(missing)
    if request.margin:
        manifest.check_gives_margin(given=False, missing=missing)
    if alone:
        check_nifti(request)
    if alone and BRAIN_MASK in files and not request.prepare:
        raise CaseError(NOT_RAW)
