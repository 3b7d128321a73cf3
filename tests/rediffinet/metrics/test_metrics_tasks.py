"""Scores of other tumours than BraTS' three regions: each region scored as the mask that its labels make."""

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.errors import ConfigError, LabelError
from rediffinet.metrics import (
    PROTOCOLS,
    dice,
    evaluate_case,
    find_protocol,
    hd95,
    lesionwise,
    normalised_surface_dice,
    region_dice,
)
from rediffinet.metrics.protocols import task_of_protocol
from rediffinet.task import TASKS, LesionRules

SPACING = (1.0, 1.5, 0.7)


def blobs(seed, values):
    """A label map of smooth blobs, and a perturbed one."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=(40, 36, 30)), 2.5) for _ in range(2)]
    edges = np.quantile(noise[0], np.linspace(0.6, 1.0, len(values) + 1))[:-1]
    maps = []
    for field in (noise[0] + 0.4 * noise[1], noise[0]):
        labels = np.zeros(field.shape, np.uint8)
        for edge, value in zip(edges, values, strict=True):
            labels[field > edge] = value
        maps.append(labels)
    return maps


@pytest.mark.parametrize("name", ["glioma-post-2024", "pediatric-2024", "glioma-decathlon", "glioma-2021"])
def test_every_region_is_scored_as_the_mask_of_its_labels(name):
    task = TASKS[name]
    pred, ref = blobs(0, list(task.label_names))
    scores = evaluate_case(pred, ref, SPACING, task=task)
    lesions = lesionwise(pred, ref, SPACING, task=task)
    assert list(scores) == list(task.region_names)
    for region in task.regions:
        a, b = (np.isin(labels, region.labels) for labels in (pred, ref))
        found = scores[region.name]
        assert (found.pred_voxels, found.ref_voxels) == (a.sum(), b.sum())
        assert found.dice == dice(a, b)
        assert found.hd95 == pytest.approx(hd95(a, b, SPACING), abs=1e-12)
        assert found.surface_dice_1mm == pytest.approx(normalised_surface_dice(a, b, 1.0, SPACING), abs=1e-12)
        assert found.surface_dice_2mm == pytest.approx(normalised_surface_dice(a, b, 2.0, SPACING), abs=1e-12)
        alone = evaluate_case(a.astype(np.uint8) * 3, b.astype(np.uint8) * 3, SPACING)["ET"]  # the mask as a tumour
        assert found.lesions == lesions[region.name] == alone.lesions


def test_a_cavity_is_no_tumour():
    pred = np.zeros((20, 20, 20), np.uint8)
    pred[5:12, 5:12, 5:12] = 4
    scores = evaluate_case(pred, np.zeros_like(pred), task=TASKS["glioma-post-2024"])
    assert {name: score.presence for name, score in scores.items()} == {
        "WT": "absent",
        "TC": "absent",
        "ET": "absent",
        "RC": "invented",
    }


def test_dice_of_nested_regions():
    a, b = (np.uint8(values).reshape(5, 1, 1) for values in ([0, 1, 2, 3, 3], [0, 1, 0, 3, 2]))
    assert region_dice(a, b) == pytest.approx({"WT": 6 / 7, "TC": 4 / 5, "ET": 2 / 3})
    assert region_dice(0 * a, 0 * b) == {"WT": 1.0, "TC": 1.0, "ET": 1.0}
    assert region_dice(0 * a, b) == {"WT": 0.0, "TC": 0.0, "ET": 0.0}


def test_surface_dice_of_what_is_missing():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:12, 5:12, 5:12] = 2
    scores = evaluate_case(np.zeros_like(labels), labels)
    assert [(scores[r].surface_dice_1mm, scores[r].surface_dice_2mm) for r in ("WT", "TC")] == [(0, 0), (1, 1)]


def test_surface_dice_is_in_mm_under_a_protocol_in_voxels():
    pred, ref = blobs(1, [3])
    scores = [evaluate_case(pred, ref, SPACING, protocol)["ET"] for protocol in ("paper", "legacy")]
    assert scores[0].surface_dice_1mm == scores[1].surface_dice_1mm < 1


def test_the_protocol_of_a_task():
    assert find_protocol(task=TASKS["metastasis-2023"]).lesions.left_out_voxels == 2
    assert find_protocol(task=TASKS["glioma-2021"]) is PROTOCOLS["brats2023-gli"]
    assert find_protocol("legacy", TASKS["metastasis-2023"]).lesions is None
    assert find_protocol(task=TASKS["glioma-2023"].model_copy(update={"lesions": None})).name == "legacy"
    rules = LesionRules(protocol="ours", dilation=2, left_out_voxels=9, penalty_mm=300)
    ours = find_protocol(task=TASKS["glioma-2023"].model_copy(update={"name": "mine", "lesions": rules}))
    assert (ours.name, ours.penalty_mm, ours.lesions) == ("ours", 300, rules)
    assert "task mine" in ours.describe()
    assert "dilation 2, ≤ 9 voxels left out" in ours.describe()


def test_a_task_that_takes_the_name_of_a_protocol_and_other_parameters():
    rules = LesionRules(protocol="brats2023-gli", dilation=2, left_out_voxels=9)
    with pytest.raises(ConfigError, match=r"'brats2023-gli', which has other parameters"):
        find_protocol(task=TASKS["glioma-2023"].model_copy(update={"lesions": rules}))


def test_the_task_of_a_protocol():
    assert task_of_protocol("brats2023-ped").name == "pediatric-2023"
    assert task_of_protocol("brats2023").name == "glioma-2023"
    assert task_of_protocol("paper").name == "glioma-2023"


def test_labels_of_another_task_are_named():
    labels = np.full((4, 4, 4), 4, np.int16)
    with pytest.raises(LabelError, match=r"(?s)The prediction holds the values 4, .*'meningioma-2023'.*pediatric-2024"):
        evaluate_case(labels, labels, task=TASKS["meningioma-2023"])
    with pytest.raises(LabelError, match=r"holds the values 259,"):
        evaluate_case(np.full((4, 4, 4), 259), labels, task=TASKS["pediatric-2024"])
    with pytest.raises(LabelError, match=r"holds the values -1,"):
        evaluate_case(np.full((4, 4, 4), -1, np.int8), labels, task=TASKS["pediatric-2024"])
