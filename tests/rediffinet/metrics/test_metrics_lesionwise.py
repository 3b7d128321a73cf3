"""Lesion-wise scores against cases worked out by hand, a plain scipy reading of the rules, and the official script."""

import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from rediffinet.errors import ConfigError, LabelError
from rediffinet.metrics import PROTOCOLS, LesionScores, dice, evaluate_case, find_protocol, hd95, lesionwise

ELEMENT = ndimage.generate_binary_structure(3, 2)
FULL = np.ones((3, 3, 3))


def block(shape, *boxes):
    labels = np.zeros(shape, np.uint8)
    for box in boxes:
        labels[tuple(slice(*side) for side in box)] = 3
    return labels


def by_the_rules(pred, ref, spacing, dilation, left_out):
    """The rules as they are written, lesion by lesion on the whole volume."""
    joined, count = ndimage.label(ndimage.binary_dilation(ref, ELEMENT, iterations=dilation), FULL)
    components, component_count = ndimage.label(pred, FULL)
    scores, hits, matched_all = [], 0, set()
    for lesion in range(1, count + 1):
        own = (joined == lesion) & ref
        near = ndimage.binary_dilation(own, ELEMENT, iterations=dilation)
        matched = set(np.unique(components[near])) - {0}
        matched_all |= matched
        if own.sum() <= left_out:
            continue
        found = np.isin(components, list(matched)) & pred
        distance = hd95(found, own, spacing)
        hits += bool(matched)
        scores.append((dice(found, own), distance if np.isfinite(distance) else 374.0))
    invented = component_count - len(matched_all)
    total = len(scores) + invented
    if not total:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    return LesionScores(
        sum(score for score, _ in scores) / total,
        (sum(distance for _, distance in scores) + 374.0 * invented) / total,
        hits,
        invented,
        len(scores) - hits,
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("protocol", ["brats2023-gli", "brats2023-met", "brats2023-men"])
def test_equals_a_plain_reading_of_the_rules(seed, protocol):
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=(60, 50, 40)), 2.2) for _ in range(2)]
    ref = (noise[0] > 0.075) * 3
    pred = (noise[0] + 0.6 * noise[1] > 0.08) * 3
    rules = PROTOCOLS[protocol].lesions
    expected = by_the_rules(pred > 0, ref > 0, (1, 1.5, 0.7), rules.dilation, rules.left_out_voxels)
    ours = lesionwise(np.asfortranarray(pred), ref, (1, 1.5, 0.7), protocol)
    for region in ("WT", "TC", "ET"):
        assert ours[region].dice == pytest.approx(expected.dice, abs=1e-12)
        assert ours[region].hd95 == pytest.approx(expected.hd95, abs=1e-9)
        assert (ours[region].tp, ours[region].fp, ours[region].fn) == (expected.tp, expected.fp, expected.fn)
    assert expected.tp + expected.fp + expected.fn > 3  # the case says something


LESION = ((5, 10), (5, 10), (5, 10))  # 125 voxels


@pytest.mark.parametrize(
    ("pred", "ref", "expected"),
    [
        ([], [], (1.0, 0.0, 0, 0, 0)),
        ([LESION], [LESION], (1.0, 0.0, 1, 0, 0)),
        ([], [LESION], (0.0, 374.0, 0, 0, 1)),
        ([LESION], [], (0.0, 374.0, 0, 1, 0)),
        # one stray voxel halves the score
        ([LESION, ((30, 31), (5, 6), (5, 6))], [LESION], (0.5, 187.0, 1, 1, 0)),
        # 3 × 3 × 5 = 45 voxels are left out, hit or missed, and what hits them is no false positive
        ([LESION], [LESION, ((25, 28), (5, 8), (5, 10))], (1.0, 0.0, 1, 0, 0)),
        ([LESION, ((25, 28), (5, 8), (5, 10))], [LESION, ((25, 28), (5, 8), (5, 10))], (1.0, 0.0, 1, 0, 0)),
        ([], [((25, 28), (5, 8), (5, 10))], (1.0, 0.0, 0, 0, 0)),
        # pieces with 6 voxels between are one lesion, 7 are two: missed once or twice
        ([], [LESION, ((16, 21), (5, 10), (5, 10))], (0.0, 374.0, 0, 0, 1)),
        ([], [LESION, ((17, 22), (5, 10), (5, 10))], (0.0, 374.0, 0, 0, 2)),
    ],
)
def test_by_hand(pred, ref, expected):
    scores = lesionwise(block((40, 15, 15), *pred), block((40, 15, 15), *ref))
    assert scores["ET"] == LesionScores(*expected)
    assert scores["WT"] == scores["TC"] == scores["ET"]


def test_one_prediction_may_match_several_lesions():
    ref = block((40, 15, 15), LESION, ((20, 25), (5, 10), (5, 10)))
    pred = block((40, 15, 15), ((5, 25), (5, 10), (5, 10)))
    scores = lesionwise(pred, ref)["ET"]
    assert (scores.tp, scores.fp, scores.fn) == (2, 0, 0)
    assert scores.dice == pytest.approx(2 * 125 / (500 + 125))


def test_regions_come_from_the_labels():
    labels = np.zeros((20, 20, 20), np.int16)
    labels[2:18, 2:18, 2:18] = 2
    labels[5:15, 5:15, 5:15] = 1
    only_edema = np.where(labels == 1, 2, labels)
    scores = evaluate_case(only_edema, labels, protocol="legacy")
    assert [scores[region].presence for region in ("WT", "TC", "ET")] == ["both", "missed", "absent"]
    assert [scores[region].dice for region in ("WT", "TC", "ET")] == [1, 0, 1]
    assert [scores[region].hd95 for region in ("WT", "TC", "ET")] == [0, 374, 0]
    assert evaluate_case(labels, only_edema, protocol="paper")["TC"].presence == "invented"
    assert scores["WT"].lesions is None


def test_paper_protocol_ignores_spacing():
    a, b = block((30, 20, 20), LESION), block((30, 20, 20), ((8, 14), (5, 10), (5, 10)))
    spacing = (2.0, 1.0, 0.5)
    assert evaluate_case(a, b, spacing, "paper")["ET"].hd95 == pytest.approx(hd95(a, b, definition="pooled"))
    assert evaluate_case(a, b, spacing, "legacy")["ET"].hd95 == pytest.approx(hd95(a, b, spacing))


def test_threads_and_memory_order_do_not_matter():
    rng = np.random.default_rng(0)
    pred, ref = (rng.choice(4, (25, 30, 20), p=[0.97, 0.01, 0.01, 0.01]).astype(np.uint8) for _ in range(2))
    expected = evaluate_case(pred, ref)
    assert evaluate_case(np.asfortranarray(pred), ref, threads=3) == expected
    in_fortran_order = evaluate_case(np.asfortranarray(pred), np.asfortranarray(ref))
    for region, scores in expected.items():
        assert in_fortran_order[region].lesions.hd95 == pytest.approx(scores.lesions.hd95)
        assert in_fortran_order[region].hd95 == pytest.approx(scores.hd95)


@pytest.mark.parametrize(
    ("pred", "error", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), LabelError, r"\(4, 4, 5\)"),
        (np.full((4, 4, 4), 4), LabelError, "ET = 4"),
        (np.full((4, 4, 4), -1), LabelError, "-1"),
        (np.full((4, 4, 4), 0.5), LabelError, "float64"),
    ],
)
def test_bad_labels(pred, error, words):
    with pytest.raises(error, match=words):
        lesionwise(pred, np.zeros((4, 4, 4), np.uint8))


def test_bad_settings():
    labels = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(ConfigError, match="no lesion-wise"):
        lesionwise(labels, labels, protocol="legacy")
    with pytest.raises(ConfigError, match="brats2023-gli"):
        evaluate_case(labels, labels, protocol="brats2029")
    with pytest.raises(LabelError, match="spacing"):
        evaluate_case(labels, labels, (1, 0, 1))
    assert find_protocol("brats2023") is PROTOCOLS["brats2023-gli"]


def test_equals_every_row_of_the_official_script(real_data):
    golden = real_data.parent / "golden" / "brats2023_gli.csv"
    if not golden.is_file():
        pytest.skip(f"no golden scores: {golden} is not a file")
    with golden.open() as stream:
        rows = list(csv.DictReader(stream))
    scores = {}
    for case in {row["case"] for row in rows}:
        files = real_data.parent / "masks" / f"{case}-other-model.nii.gz", real_data / case / f"{case}-seg.nii.gz"
        scores[case] = evaluate_case(*(np.asanyarray(nib.load(path).dataobj) for path in files))
    for row in rows:
        ours = scores[row["case"]][row["Labels"]]
        assert ours.ref_voxels == int(row["GT_Complete_Volume"])
        assert ours.dice == pytest.approx(float(row["Legacy_Dice"]), abs=1e-6)
        assert ours.hd95 == pytest.approx(float(row["Legacy_HD95"]), abs=1e-3)
        assert ours.lesions.dice == pytest.approx(float(row["LesionWise_Score_Dice"]), abs=1e-6)
        assert ours.lesions.hd95 == pytest.approx(float(row["LesionWise_Score_HD95"]), abs=1e-3)
        counts = tuple(int(row[name]) for name in ("Num_TP", "Num_FP", "Num_FN"))
        assert (ours.lesions.tp, ours.lesions.fp, ours.lesions.fn) == counts
