"""From the tissues of a phantom's tumour to the label map of a task, whatever its regions are.

The tumour has edema, a core and an enhancing part, which are the task's regions of those roles. A region without a role
is a piece of what it lies in: of its parent, or, where it has none (a resection cavity), of the core. It looks like
fluid.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rediffinet.errors import ConfigError
from rediffinet.phantom.fields import blur
from rediffinet.phantom.lesions import Growth
from rediffinet.task import Role, Task

NECROSIS, EDEMA, ENHANCING = 1, 2, 3
"""Tissues in `Growth.labels`."""
_REGION_OF: dict[int, tuple[Role, ...]] = {
    NECROSIS: ("core", "whole"),
    EDEMA: ("whole",),
    ENHANCING: ("enhancing", "core", "whole"),
}
_SHARE = 0.35  # of what a region without a role lies in


def check_drawable(task: Task, contrasts: tuple[str, ...]) -> None:
    """Raise ConfigError where a task asks for a contrast that is not drawn, or says nothing about its regions."""
    unknown = [contrast for contrast in task.contrasts if contrast not in contrasts]
    if unknown:
        message = (
            f"The task '{task.name}' has the contrast {unknown[0]}, which phantoms do not have.\n"
            f"Expected contrasts out of {', '.join(contrasts)}."
        )
        raise ConfigError(message)
    if task.role("whole") is None and task.role("core") is None and task.role("enhancing") is None:
        message = (
            f"The task '{task.name}' gives no region a role, and a phantom cannot tell what to draw.\n"
            "Expected at least one of the roles whole, core and enhancing."
        )
        raise ConfigError(message)


def with_regions(rng: np.random.Generator, growth: Growth, task: Task) -> Growth:
    """The same tumour with the task's label values, and the regions without a role carved out of it."""
    roles = {task.role(role) for role in ("whole", "core", "enhancing")}
    paint = np.zeros(256, np.uint8)
    for tissue, wanted in _REGION_OF.items():
        index = next((found for role in wanted if (found := task.role(role)) is not None), None)
        paint[tissue] = 0 if index is None else task.paint[index]
    labels = paint[growth.labels]
    fluid = np.zeros(labels.shape, np.float32)
    for k, parent in enumerate(task.parents):
        if k in roles:
            continue
        around = growth.labels == NECROSIS if parent < 0 else labels == task.paint[parent]
        piece = _piece(rng, around if around.any() else growth.labels > 0)
        labels[piece] = task.paint[k]
        np.maximum(fluid, blur(piece.astype(np.float32), 0.7), out=fluid)
    return replace(growth, labels=labels, fluid=fluid if fluid.any() else None)


def _piece(rng: np.random.Generator, around: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The share of some voxels (X, Y, Z) that is nearest to a random one of them."""
    places = np.argwhere(around)
    piece = np.zeros(around.shape, np.bool_)
    if len(places):
        distance = ((places - places[rng.integers(len(places))]) ** 2).sum(axis=1)
        nearest = places[np.argsort(distance, kind="stable")[: max(1, round(_SHARE * len(places)))]]
        piece[tuple(nearest.T)] = True
    return piece
