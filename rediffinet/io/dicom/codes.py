"""What labels are called in DICOM: codes of CID 7168 (brain lesion segmentation types with necrosis), colours."""

from dataclasses import dataclass

from rediffinet.errors import ConfigError

MORPHOLOGY = ("49755003", "SCT", "Morphologically Abnormal Structure")


@dataclass(frozen=True)
class Finding:
    """A label or region as DICOM names it: code, scheme, meaning, colour in CIELab."""

    name: str
    code: str
    scheme: str
    meaning: str
    colour: tuple[float, float, float]


NECROSIS = Finding("necrosis", "6574001", "SCT", "Necrosis", (45.0, -5.0, -40.0))
EDEMA = Finding("edema", "79654002", "SCT", "Edema", (55.0, -45.0, 35.0))
ENHANCING = Finding("enhancing tumour", "C113842", "NCIt", "Enhancing Lesion", (72.0, 25.0, 70.0))
NON_ENHANCING = Finding("non-enhancing tumour", "C81175", "NCIt", "Non-Enhancing Lesion", (60.0, 60.0, 20.0))
WHOLE = Finding("whole tumour", "108369006", "SCT", "Neoplasm", (60.0, 0.0, -45.0))
_OF_LABEL = {
    **dict.fromkeys(("necrosis", "ncr"), NECROSIS),
    **dict.fromkeys(("edema", "ed", "snfh"), EDEMA),
    **dict.fromkeys(("enhancing", "et"), ENHANCING),
    **dict.fromkeys(("netc", "net", "nc", "non-enhancing"), NON_ENHANCING),
}


def finding_of(label: str) -> Finding:
    """The code of a label of a result. Raises ConfigError for a label that has none here."""
    found = _OF_LABEL.get(label.lower())
    if found is None:
        message = f"The label '{label}' has no DICOM code here.\nDICOM objects are written for {', '.join(_OF_LABEL)}."
        raise ConfigError(message)
    return found
