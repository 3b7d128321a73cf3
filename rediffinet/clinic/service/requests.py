"""What a client may ask of a case, checked before it is queued."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rediffinet.clinic.service.archives import check_file_name
from rediffinet.clinic.service.problems import Problem
from rediffinet.errors import CaseError


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
    preview: bool = Field(True, description="Write a picture.")
    channels: str | None = Field(None, max_length=100, description="Contrasts of ID_0000 … in an archive.")


FIELDS = tuple(CaseRequest.model_fields)


def parse_request(texts: dict[str, str]) -> dict[str, Any]:
    """The request of form fields, JSON-ready. Raises Problem 422 that names the field."""
    try:
        request = CaseRequest.model_validate({key: value for key, value in texts.items() if value != ""})
        check_file_name(request.name)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except CaseError as error:
        raise Problem(422, f"name: {error}") from None
    given = set(texts)
    return request.model_dump(mode="json") | {"named": "name" in given}
