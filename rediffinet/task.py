"""The tumour as data: which contrasts are looked at, which regions are looked for, and what is written for them.

Regions form a forest: each may lie inside a parent. One label value is written per voxel, so overlapping regions are
painted in the order in which they stand, a later one over an earlier; the last region painted at a voxel decides its
label, and the voxel then belongs to that region and its ancestors. In BraTS that is ET ⊂ TC ⊂ WT, painted WT, TC, ET.

A task is JSON: it stands in a bundle's manifest, in the configuration of a run and in reports, and can be written by
hand (`--task FILE.json`). The tasks of `TASKS` follow published label conventions; a task also serves as a convention,
by which the label values of a file are read (`converted`).
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rediffinet.errors import ConfigError, LabelError
from rediffinet.files import parse_json

SCHEMA: Literal["rediffinet-task/1"] = "rediffinet-task/1"
MAX_REGIONS = 8
"""What the compiled decoder holds in the bits of a byte."""
RESERVED = ("Avg",)
"""Names in a table of scores that are no region."""
KNOWN_SUFFIXES = {"t1n": ("t1n", "t1"), "t1c": ("t1c", "t1ce"), "t2w": ("t2w", "t2"), "t2f": ("t2f", "flair")}
"""What files of a contrast end in where the task does not say: BraTS 2023, then the years before."""

Role = Literal["whole", "core", "enhancing"]
ROLES: tuple[Role, ...] = ("whole", "core", "enhancing")
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
_Suffix = Annotated[str, Field(pattern=r"^[a-z0-9]+$")]
_Suffixes = Annotated[tuple[_Suffix, ...], Field(min_length=1)]
_Value = Annotated[int, Field(ge=1, le=255, strict=True)]
_Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(_Part):
    """One value of the label maps: its name and its colour, `#rrggbb`."""

    value: _Value
    name: _Name
    colour: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]


class Region(_Part):
    """One region: all labels that make it, those of the regions inside it included, and its parent, if any.

    paint: the label that is written where this region is found and none inside it; it can be left out where only one
    of the region's labels is in no region inside it.
    """

    name: _Name
    labels: Annotated[tuple[_Value, ...], Field(min_length=1)]
    parent: str | None = None
    paint: _Value | None = None


class Roles(_Part):
    """Which region plays which part; None where the tumour has no such region.

    whole: all that was found, for volumes, warnings and the place of the preview. core: the tumour without what
    surrounds it. enhancing: what takes up contrast agent.
    """

    whole: str | None = None
    core: str | None = None
    enhancing: str | None = None


class LesionRules(_Part):
    """Parameters of the lesion-wise scores, and the name of the protocol that they make.

    dilation: steps of the 18-neighbour element by which lesions are joined and matched. left_out_voxels: lesions of up
    to this size do not count. penalty_mm: HD95 of a lesion or region that is in one map only.
    """

    protocol: _Name
    dilation: Annotated[int, Field(ge=0)]
    left_out_voxels: Annotated[int, Field(ge=0)]
    penalty_mm: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 374.0


class Task(_Part):
    """What is looked at, what is looked for, and how it is written; see the module for how regions are painted.

    contrasts: their names, in the order of the channels. regions: in the order of the channels, which is the order of
    painting; a parent stands before its children. suffixes: endings of the files of a contrast, `ID-SUFFIX.nii.gz`;
    a contrast that is left out has its own name and what is known of it. spacing_mm: smallest and largest voxel size
    that is taken. lesions: None for whole-image scores alone.

        >>> task = find_task("glioma-2023")
        >>> task.contrasts, task.region_names
        (('t1n', 't1c', 't2w', 't2f'), ('WT', 'TC', 'ET'))
        >>> task.describe_labels()
        'NCR = 1, ED = 2, ET = 3'
    """

    schema_version: Literal["rediffinet-task/1"] = SCHEMA
    name: _Name
    title: _Line = ""
    contrasts: Annotated[tuple[_Name, ...], Field(min_length=1)]
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    regions: Annotated[tuple[Region, ...], Field(min_length=1, max_length=MAX_REGIONS)]
    roles: Roles = Roles()
    suffixes: dict[str, _Suffixes] = {}
    label_suffixes: _Suffixes = ("seg",)
    spacing_mm: tuple[float, float] = (0.8, 1.25)
    lesions: LesionRules | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for check in (_check_names, _check_labels, _check_parents, _check_overlaps, _check_paint, _check_suffixes):
            check(self)
        low, high = self.spacing_mm
        if not 0.0 < low <= high < float("inf"):
            raise ValueError(f"spacing_mm is {low:g} to {high:g}; give the smallest voxel size in mm, then the largest")
        return self

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions, in the order of the channels and of painting."""
        return tuple(region.name for region in self.regions)

    @property
    def parents(self) -> tuple[int, ...]:
        """Index of each region's parent, −1 for none: what `ext.flip_and_decode` takes."""
        names = self.region_names
        return tuple(-1 if region.parent is None else names.index(region.parent) for region in self.regions)

    @property
    def paint(self) -> tuple[int, ...]:
        """The label that each region writes: what `ext.flip_and_decode` takes."""
        return tuple(region.paint or _own_labels(self, region)[0] for region in self.regions)

    @property
    def label_names(self) -> dict[int, str]:
        """Name of each label value."""
        return {label.value: label.name for label in self.labels}

    def role(self, role: Role) -> int | None:
        """Index of the region that plays a role, None where there is none."""
        name = getattr(self.roles, role)
        return None if name is None else self.region_names.index(name)

    def suffixes_of(self, contrast: str) -> tuple[str, ...]:
        """What the files of a contrast end in."""
        return self.suffixes.get(contrast, KNOWN_SUFFIXES.get(contrast, (contrast.lower(),)))

    def __str__(self) -> str:
        """The name and the labels, as messages tell a task."""
        return f"{self.name} ({self.describe_labels()})"

    def describe_labels(self) -> str:
        """The labels with their values, as in `NCR = 1, ED = 2, ET = 3`."""
        return ", ".join(f"{label.name} = {label.value}" for label in sorted(self.labels, key=lambda one: one.value))


def find_task(given: str | PathLike[str]) -> Task:
    """The task of that name (of `TASKS`, or a name of `ALIASES`), or the one in a JSON file.

        >>> find_task("brats2021").name
        'glioma-2021'

    Raises:
        ConfigError: no such name and no such file, or a file that holds no task; it names the value and what would be
            right.

    >>> task = find_task("glioma-post-2024")
    >>> task.region_names, task.paint, task.parents
    (('WT', 'TC', 'ET', 'RC'), (2, 1, 3, 4), (-1, 0, 1, -1))
    >>> task.describe_labels()
    'NETC = 1, SNFH = 2, ET = 3, RC = 4'
    """
    name = str(given)
    if name in TASKS or name in ALIASES:
        return TASKS[ALIASES.get(name, name)]
    path = Path(given)
    if not path.is_file():
        message = f"There is no task '{name}', and no such file.\nExpected a JSON file, or one of {', '.join(TASKS)}."
        raise ConfigError(message)
    try:
        values = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the task {path}: {error}.\nExpected a JSON file (UTF-8).") from None
    task = task_from(values, str(path))
    known = TASKS.get(ALIASES.get(task.name, task.name))
    if known is not None and (known.labels, known.regions) != (task.labels, task.regions):
        message = f"The task {path} is named '{task.name}', and has other labels or regions than the one of that name."
        raise ConfigError(message, expected="a name of its own")
    return task


def task_from(values: Any, where: str) -> Task:
    """The task of a parsed JSON document; `where` names it in errors. Raises ConfigError."""
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        told = [one for one in error.errors() if not _follows(one, error.errors())]
        problems = [f"  {_place(problem['loc'], values)}{_said(problem)}" for problem in told]
        raise ConfigError("\n".join([f"The task {where} does not fit together:", *problems])) from None


def regions_of(labels: npt.NDArray[np.integer], task: Task) -> npt.NDArray[np.bool_]:
    """Label map (…) → its regions, bool (R, …). Values that are in no region are background.

    >>> regions_of(np.array([0, 1, 2, 3]), find_task("glioma-2023")).astype(int)
    array([[0, 1, 1, 1],
           [0, 1, 0, 1],
           [0, 0, 0, 1]])
    """
    found = np.zeros((len(task.regions), *labels.shape), np.bool_)
    for k, region in enumerate(task.regions):
        for value in region.labels:
            found[k] |= labels == value
    return found


def check_values(labels: npt.NDArray[Any], task: Task, what: str) -> None:
    """Raise LabelError where a label map (…), `what` in the message, holds values that are not the task's."""
    values = np.unique(labels)
    outside = values[~np.isin(values, (0, *task.label_names))]
    if not len(outside):
        return
    message = (
        f"{what} holds the values {listed(outside)}, which the task '{task.name}' does not have.\n"
        f"Expected 0 and {task.describe_labels()}.{fitting_hint(values)}"
    )
    raise LabelError(message)


def fitting_conventions(values: npt.NDArray[Any]) -> list[Task]:
    """The shipped conventions that have all these values, one of each kind of labels."""
    found: dict[str, Task] = {}
    for task in TASKS.values():
        if np.isin(values, (0, *task.label_names)).all():
            found.setdefault(task.describe_labels(), task)
    return list(found.values())


def fitting_hint(values: npt.NDArray[Any]) -> str:
    """A sentence that names the shipped conventions with all these values, nothing where there is none."""
    fitting = [f"'{task.name}' ({task.describe_labels()})" for task in fitting_conventions(values)]
    return f" These values fit the convention {' or '.join(fitting)}: name it with `labels`." if fitting else ""


def value_map(source: Task, target: Task) -> dict[int, int]:
    """For each label value of one convention the value of another that lies in the same regions, by their names.

    Only regions that both have count: what lies in none of them becomes 0, such as the resection cavity where the
    target has no region for it. Raises ConfigError where there is no counterpart.

    >>> value_map(find_task("pediatric-2024"), find_task("glioma-2023"))
    {1: 3, 2: 1, 3: 1, 4: 2}
    """
    common = set(source.region_names) & set(target.region_names)
    found = {}
    for label in source.labels:
        wanted = _regions_with(source, label.value)
        candidates = [
            one.value for one in target.labels if _regions_with(target, one.value) & common == wanted & common
        ]
        exact = [value for value in candidates if _regions_with(target, value) == wanted]
        if not common or (wanted & common and not candidates):
            message = (
                f"Label {label.value} ({label.name}) of '{source.name}' lies in {', '.join(sorted(wanted)) or 'none'}."
                "\n"
                f"The task '{target.name}' has no label there; its labels are {target.describe_labels()}."
            )
            raise ConfigError(message)
        found[label.value] = (exact or candidates)[0] if wanted & common else 0
    return found


def converted(labels: npt.NDArray[np.uint8], source: Task, target: Task) -> npt.NDArray[np.uint8]:
    """A label map (…) of one convention with the label values of another, in the same memory order; see `value_map`."""
    table = np.zeros(256, np.uint8)
    for value, becomes in value_map(source, target).items():
        table[value] = becomes
    if all(table[label.value] == label.value for label in source.labels):
        return labels
    return np.asarray(table[labels], np.uint8, order="F" if np.isfortran(labels) else "C")


def listed(values: npt.NDArray[Any]) -> str:
    """Values for a message, the first twelve of them, with the digits that tell them from whole numbers."""
    return ", ".join(f"{float(value):.7g}" for value in values[:12]) + (", …" if len(values) > 12 else "")


def _regions_with(task: Task, value: int) -> set[str]:
    return {region.name for region in task.regions if value in region.labels}


def _own_labels(task: Task, region: Region) -> list[int]:
    """The labels of a region that are in none of its children."""
    inside = {value for child in task.regions if child.parent == region.name for value in child.labels}
    return [value for value in region.labels if value not in inside]


def _check_names(task: Task) -> None:
    for what, names in (
        ("contrast", task.contrasts),
        ("region", task.region_names),
        ("label", [label.name for label in task.labels]),
        ("label value", [label.value for label in task.labels]),
    ):
        double = [name for k, name in enumerate(names) if name in names[:k]]
        if double:
            raise ValueError(f"the {what} {double[0]} stands there twice; give each once")
    for name in RESERVED:
        if name in task.region_names:
            raise ValueError(f"a region is named {name}, which tables of scores use; give it another name")
    for role in ROLES:
        name = getattr(task.roles, role)
        if name is not None and name not in task.region_names:
            raise ValueError(f"the role {role} is given to {name}; expected one of {', '.join(task.region_names)}")


def _check_labels(task: Task) -> None:
    for region in task.regions:
        for value in region.labels:
            if value not in task.label_names:
                raise ValueError(
                    f"region {region.name} is made of the label {value}; expected some of {task.describe_labels()}"
                )
        double = [value for k, value in enumerate(region.labels) if value in region.labels[:k]]
        if double:
            raise ValueError(f"region {region.name} has the label {double[0]} twice; give each once")


def _check_parents(task: Task) -> None:
    parent_of = {region.name: region.parent for region in task.regions}
    for region in task.regions:
        if region.parent is not None and region.parent not in parent_of:
            others = ", ".join(name for name in parent_of if name != region.name)
            raise ValueError(f"region {region.name} has the parent {region.parent}; expected one of {others}, or none")
    for region in task.regions:
        way = [region.name]
        while (above := parent_of[way[-1]]) is not None:
            if above in way:
                ring = " in ".join([*way[way.index(above) :], above])
                raise ValueError(f"parents go in a circle: {ring}; one of these regions has no parent")
            way.append(above)
    names = task.region_names
    for k, region in enumerate(task.regions):
        if region.parent is not None and names.index(region.parent) > k:
            raise ValueError(
                f"region {region.name} stands before its parent {region.parent} and would be painted over by it; "
                "list parents first"
            )
        around = next((one.labels for one in task.regions if one.name == region.parent), region.labels)
        outside = [value for value in region.labels if value not in around]
        if outside:
            raise ValueError(
                f"region {region.name} has the label {outside[0]}, which its parent {region.parent} does not have; a "
                f"region inside another has some of its labels {', '.join(map(str, around))}"
            )


def _check_overlaps(task: Task) -> None:
    """Regions that share a label lie inside one another: a label map could not tell them apart otherwise."""
    parent_of = {region.name: region.parent for region in task.regions}

    def inside(name: str | None, other: str) -> bool:
        while name is not None and name != other:
            name = parent_of[name]
        return name == other

    for k, one in enumerate(task.regions):
        for other in task.regions[:k]:
            shared = [value for value in one.labels if value in other.labels]
            if shared and not inside(one.name, other.name):
                raise ValueError(
                    f"regions {other.name} and {one.name} share the label {shared[0]}, and neither is inside the "
                    f'other; give {one.name} "parent": "{other.name}", or each its own labels'
                )


def _check_paint(task: Task) -> None:
    for region in task.regions:
        own = _own_labels(task, region)
        if region.paint is not None and region.paint not in own:
            raise ValueError(
                f"region {region.name} paints the label {region.paint}; expected a label that is in none of the "
                f"regions inside it: {', '.join(map(str, own)) or 'it has none'}"
            )
        if not own:
            raise ValueError(
                f"region {region.name} has no label that is not in a region inside it: where it alone is found there "
                "would be nothing to write. Leave the region out, or give it a label"
            )
        if region.paint is None and len(own) > 1:
            raise ValueError(
                f'region {region.name} has the labels {", ".join(map(str, own))} of its own; say with "paint" which '
                "is written, or make regions of the others"
            )


def _check_suffixes(task: Task) -> None:
    for contrast in task.suffixes:
        if contrast not in task.contrasts:
            raise ValueError(f"suffixes name the contrast {contrast}; expected one of {', '.join(task.contrasts)}")
    for contrast in task.contrasts:
        if not all(suffix.isalnum() for suffix in task.suffixes_of(contrast)):
            raise ValueError(
                f"files of the contrast {contrast} have no ending of letters and digits alone; give one, as in "
                f'"suffixes": {{"{contrast}": ["{"".join(filter(str.isalnum, contrast.lower()))}"]}}'
            )
    owner = dict.fromkeys(task.label_suffixes, "the labels")
    for contrast in task.contrasts:
        for suffix in task.suffixes_of(contrast):
            if suffix in owner:
                raise ValueError(f"files that end in {suffix} are those of {owner[suffix]} and of {contrast}; give one")
            owner[suffix] = contrast


def _place(parts: tuple[int | str, ...], values: Any) -> str:
    """Where in a task file a problem lies, with the names of its regions rather than their numbers."""
    if not parts:
        return ""
    place, here = [], values
    for part in parts:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = None
        named = isinstance(part, int) and isinstance(here, Mapping) and "name" in here
        place.append(str(here["name"] if named and isinstance(here, Mapping) else part))
    return ".".join(place) + ": "


def _follows(problem: Any, problems: Sequence[Any]) -> bool:
    """Whether a list is too short only because an entry of it, which is told, does not count."""
    where = problem["loc"]
    inside = (one["loc"] for one in problems if len(one["loc"]) > len(where))
    return problem["type"] == "too_short" and any(loc[: len(where)] == where for loc in inside)


def _said(problem: Any) -> str:
    """pydantic's words on one problem, with the value that was found and what would be right."""
    where, kind = problem["loc"], problem["type"]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "extra_forbidden" and where[:1] == ("roles",):
        return f"the role {where[-1]} is not known; expected one of {', '.join(ROLES)}"
    if kind == "extra_forbidden":
        return "this field is not known; remove it"
    if kind == "missing":
        return "this field is missing"
    return f"got {problem['input']!r}. {problem['msg']}"


_NCR, _ED, _ET = "#0072B2", "#009E73", "#E69F00"  # told apart by the colour-blind as well
_CAVITY, _CYST = "#CC79A7", "#56B4E9"
_CONTRASTS = tuple(KNOWN_SUFFIXES)
_ROLES = Roles(whole="WT", core="TC", enhancing="ET")


def _classic(
    name: str,
    title: str,
    protocol: str,
    *,
    ncr: int = 1,
    ed: int = 2,
    et: int = 3,
    called: tuple[str, str] = ("NCR", "ED"),
    dilation: int = 3,
    least: int = 50,
) -> Task:
    """A tumour of the three classic regions, with the numbers that its files hold, and the names of its challenge.

    called: its names for the part of the core that does not enhance and for what surrounds the core.
    """
    return Task(
        name=name,
        title=title,
        contrasts=_CONTRASTS,
        labels=(
            Label(value=ncr, name=called[0], colour=_NCR),
            Label(value=ed, name=called[1], colour=_ED),
            Label(value=et, name="ET", colour=_ET),
        ),
        regions=(
            Region(name="WT", labels=(ncr, ed, et)),
            Region(name="TC", labels=(ncr, et), parent="WT"),
            Region(name="ET", labels=(et,), parent="TC"),
        ),
        roles=_ROLES,
        lesions=LesionRules(protocol=protocol, dilation=dilation, left_out_voxels=least),
    )


_NETC_SNFH = ("NETC", "SNFH")
"""Of the challenges on meningioma (arXiv 2305.07642), metastases (2306.00838) and glioma in Africa (2305.19369)."""

_POST_TREATMENT = Task(
    name="glioma-post-2024",
    title="Adult glioma after treatment (BraTS 2024 GLI)",
    contrasts=_CONTRASTS,
    labels=(
        Label(value=1, name="NETC", colour=_NCR),
        Label(value=2, name="SNFH", colour=_ED),
        Label(value=3, name="ET", colour=_ET),
        Label(value=4, name="RC", colour=_CAVITY),
    ),
    regions=(
        Region(name="WT", labels=(1, 2, 3)),
        Region(name="TC", labels=(1, 3), parent="WT"),
        Region(name="ET", labels=(3,), parent="TC"),
        Region(name="RC", labels=(4,)),  # the cavity is no tumour, and not inside WT
    ),
    roles=_ROLES,
    lesions=LesionRules(protocol="brats2023-gli", dilation=3, left_out_voxels=50),
)

_PEDIATRIC_2024 = Task(
    name="pediatric-2024",
    title="Pediatric high-grade glioma (BraTS-PEDs 2024)",
    contrasts=_CONTRASTS,
    labels=(
        Label(value=1, name="ET", colour=_ET),
        Label(value=2, name="NET", colour=_NCR),
        Label(value=3, name="CC", colour=_CYST),
        Label(value=4, name="ED", colour=_ED),
    ),
    regions=(
        Region(name="WT", labels=(1, 2, 3, 4)),
        Region(name="TC", labels=(1, 2, 3), parent="WT"),
        Region(name="CC", labels=(3,), parent="TC"),
        Region(name="ET", labels=(1,), parent="TC"),
    ),
    roles=_ROLES,
    lesions=LesionRules(protocol="brats2023-ped", dilation=3, left_out_voxels=50),
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _classic("glioma-2023", "Adult glioma before treatment (BraTS 2023 GLI)", "brats2023-gli"),
        _classic("glioma-2021", "Adult glioma before treatment (BraTS 2018 to 2022)", "brats2023-gli", et=4),
        _classic("glioma-decathlon", "Adult glioma (Decathlon and nnU-Net order)", "brats2023-gli", ncr=2, ed=1),
        _POST_TREATMENT,
        _classic("meningioma-2023", "Meningioma (BraTS 2023 MEN)", "brats2023-men", called=_NETC_SNFH, dilation=1),
        _classic(
            "metastasis-2023", "Metastases (BraTS 2023 MET)", "brats2023-met", called=_NETC_SNFH, dilation=1, least=2
        ),
        _classic(
            "africa-2023", "Adult glioma, Sub-Saharan Africa (BraTS 2023 SSA)", "brats2023-ssa", called=_NETC_SNFH
        ),
        _classic(
            "pediatric-2023", "Pediatric high-grade glioma (BraTS 2023 PED)", "brats2023-ped", called=("NC", "ED")
        ),
        _PEDIATRIC_2024,
    )
}
"""Tasks of the published label conventions, by name. Lesion-wise parameters are those of BraTS 2023 for the years
after it as well, which kept the metrics."""

DEFAULT_TASK = "glioma-2023"
ALIASES = {
    "brats2023": "glioma-2023",
    "brats2021": "glioma-2021",
    "brats2024": "glioma-post-2024",
    "decathlon": "glioma-decathlon",
    "nnunet": "glioma-decathlon",
}
"""Other names of the conventions."""
