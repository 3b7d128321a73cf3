"""Which label was called which, and whether another order of the labels would score far better."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import permutations

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError
from rediffinet.ext import joint_box
from rediffinet.task import TASKS, Task, value_map

Confusion = npt.NDArray[np.int64]
"""Voxels (L + 1, L + 1) of each label of the prediction (rows) and of the reference; background first, not counted."""

FAR_BETTER = 0.2
"""By how much the mean Dice of a region has to rise for another order to be worth a word."""
BETTER_ALL_OVER = 0.05
"""And by how much the mean over the regions has to."""
_MOST_LABELS = 5  # 120 orders


def confusion(pred: npt.NDArray[np.uint8], ref: npt.NDArray[np.uint8], task: Task) -> Confusion:
    """Count the labels of two maps (X, Y, Z) with the task's values."""
    box = joint_box(pred, ref)
    place = np.zeros(256, np.int64)
    size = len(task.labels) + 1
    for k, label in enumerate(task.labels, start=1):
        place[label.value] = k
    counts = np.bincount((place[pred[box]] * size + place[ref[box]]).ravel(), minlength=size * size)
    counts = counts.reshape(size, size)
    counts[0, 0] = 0
    return counts


def exchange_hint(tables: Sequence[Confusion], task: Task) -> str:
    """A sentence where exchanging labels of one side would score far better: they are in another order then."""
    labels = range(1, len(task.labels) + 1)
    if not tables or len(labels) > _MOST_LABELS:
        return ""
    stacked = np.stack(tables)
    now = _mean_dice(stacked, task)
    best, order = now, tuple(labels)
    for other in permutations(labels):
        dice = _mean_dice(stacked[:, [0, *other]], task)
        if dice.mean() > best.mean() + 1e-12:
            best, order = dice, other
    region = int(np.argmax(best - now))
    if best[region] - now[region] < FAR_BETTER or best.mean() - now.mean() < BETTER_ALL_OVER:
        return ""
    becomes = {was: k + 1 for k, was in enumerate(order)}
    moved = {task.labels[k - 1].name: task.labels[becomes[k] - 1].name for k in labels if becomes[k] != k}
    name = task.region_names[region]
    names = list(moved)
    what = " and ".join(names) if len(names) == 2 else ", ".join(f"{old} for {new}" for old, new in moved.items())
    return (
        f"Exchanging the labels {what} on one side would raise the mean Dice of {name} from {now[region]:.2f} to "
        f"{best[region]:.2f}: predictions and references number them differently. Name the convention with `labels`"
        f"{_known(order, task)}."
    )


def _mean_dice(tables: Confusion, task: Task) -> npt.NDArray[np.float64]:
    """Mean over cases (n, L + 1, L + 1) of the Dice of each region (R,)."""
    means = []
    for region in task.regions:
        inside = np.array([False, *(label.value in region.labels for label in task.labels)])
        both = tables[:, inside][:, :, inside].sum(axis=(1, 2))
        sizes = tables[:, inside].sum(axis=(1, 2)) + tables[:, :, inside].sum(axis=(1, 2))
        means.append(np.where(sizes > 0, 2.0 * both / np.maximum(sizes, 1), 1.0).mean())
    return np.array(means)


def _known(order: Sequence[int], task: Task) -> str:
    """Shipped conventions whose values, read as the task's, are in that order."""
    values = [label.value for label in task.labels]
    wanted = {values[was - 1]: values[k] for k, was in enumerate(order)}
    names = []
    for other in TASKS.values():
        with suppress(ConfigError):  # a convention of another tumour
            if value_map(other, task) == wanted:
                names.append(f"'{other.name}'")
    return f", which may be {' or '.join(names)}" if names else ""
