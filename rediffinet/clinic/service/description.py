"""What the API says of itself (OpenAPI): models of its answers, examples and problems."""

from typing import Any

from pydantic import BaseModel

from rediffinet.clinic.service.problems import MEDIA_TYPE, problem
from rediffinet.clinic.service.requests import CaseRequest
from rediffinet.clinic.service.uploads import ARCHIVE, BRAIN_MASK, CONTRASTS


class ProgressInfo(BaseModel):
    """How far a running case is: `done` of `of` in a stage."""

    stage: str
    done: int
    of: int


class FileInfo(BaseModel):
    """A file that was written. url: below the address of the service."""

    name: str
    url: str
    bytes: int | None


class ResultInfo(BaseModel):
    """What came out. volumes_ml: by map (baseline, refined) and region; warnings: codes that the report explains."""

    seconds: float
    volumes_ml: dict[str, dict[str, float] | None]
    warnings: list[str]
    files: dict[str, FileInfo]
    images: dict[str, str]
    zip: str


class ProblemInfo(BaseModel):
    """A problem of RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class CaseInfo(BaseModel):
    """A case. state: queued, running, done, failed or cancelled; ahead: cases computed before it."""

    id: str
    case: str
    state: str
    created: str
    started: str | None
    finished: str | None
    ahead: int
    progress: ProgressInfo | None
    cancelling: bool
    problem: ProblemInfo | None
    result: ResultInfo | None


class Stored(BaseModel):
    """Names of the files that the archive took."""

    stored: list[str]


class CaseList(BaseModel):
    """Cases, newest first. next: pass it as `before` for older ones. accepts: whether this service takes uploads."""

    cases: list[CaseInfo]
    next: int | None
    accepts: bool = True


CASE_EXAMPLE = {
    "id": "0f0c7f0e6f4b4a0f9f5f5f0f0c7f0e6f",
    "case": "P1",
    "state": "running",
    "created": "2026-01-31T12:00:00.000+00:00",
    "started": "2026-01-31T12:00:01.000+00:00",
    "finished": None,
    "ahead": 0,
    "progress": {"stage": "refine", "done": 3, "of": 12},
    "cancelling": False,
    "problem": None,
    "result": None,
}


_DETAILS = {
    400: "The multipart body ends in the middle: the closing boundary is missing.",
    401: "The token is missing or not known. Send it as 'Authorization: Bearer TOKEN'; in a browser "
    "it is the password, with any name.",
    403: "This service answers its own page alone, not one of another origin.",
    404: "There is no such case. It may have been removed: results are kept for a limited time.",
    408: "The upload took longer than 600 s. Nothing was kept; send it again.",
    409: "The case is done already.",
    413: "The upload is larger than 2048 MiB, the limit of this service.",
    415: "Expected multipart/form-data, or a zip as application/zip.",
    422: "seed: Input should be greater than or equal to 0.",
    429: "32 cases are waiting, as many as this service takes at a time. Try again later.",
    502: "The archive does not answer.",
    503: "The computing process is not ready: it starts, or died and is started again.",
    507: "The disk of the service is full. Nothing was kept; try again later.",
}


def said(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems that an operation answers, each with an example.

    Every operation that takes a parameter names 422; FastAPI adds a schema that is never sent where it does not.
    """
    told: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        example = problem(status, _DETAILS[status])
        content = {"schema": {"$ref": "#/components/schemas/ProblemInfo"}, "example": example}
        told[status] = {"description": example["title"], "content": {MEDIA_TYPE: content}}
    return told


def put_examples(document: dict[str, Any]) -> dict[str, Any]:
    """The description with a case wherever one is answered; FastAPI leaves out what is null in its own examples."""
    for operation in (operation for entry in document["paths"].values() for operation in entry.values()):
        for response in operation["responses"].values():
            told = response.get("content", {}).get("application/json", {})
            if told.get("schema") == {"$ref": "#/components/schemas/CaseInfo"}:
                told["example"] = CASE_EXAMPLE
    return document


def binary(description: str) -> dict[str, str]:
    """The schema of a file."""
    return {"type": "string", "format": "binary", "description": description}


def request_body() -> dict[str, Any]:
    """What `POST /v1/cases` takes."""
    schema = CaseRequest.model_json_schema()
    texts = {name: entry for name, entry in schema["properties"].items()}
    images = {name: binary(f"NIfTI file of {name}, .nii or .nii.gz") for name in CONTRASTS}
    archive = {ARCHIVE: binary("zip of the four images of one case, or of the DICOM files of one examination")}
    texts |= {BRAIN_MASK: binary("for raw scans: NIfTI brain mask on t1c's own grid, instead of the network's")}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "anyOf": [
                        {"type": "object", "properties": {**images, **texts}, "required": list(images)},
                        {"type": "object", "properties": {**images, **texts}, "required": ["allow_missing"]},
                        {"type": "object", "properties": {**archive, **texts}, "required": list(archive)},
                        {"type": "object", "properties": texts, "required": ["study"]},
                    ]
                },
                "examples": {
                    "images": {
                        "summary": "four images of a case",
                        "value": {**{name: f"P1-{name}.nii.gz" for name in CONTRASTS}, "name": "P1", "seed": 7},
                    },
                    "archive": {"summary": "a zip", "value": {ARCHIVE: "study.zip", "html_report": True}},
                    "study": {
                        "summary": "an examination in the archive of the service",
                        "value": {"study": "1.2.840.113619.2.1", "dicom_seg": True},
                    },
                },
            },
            "application/zip": {"schema": archive[ARCHIVE]},
        },
    }
