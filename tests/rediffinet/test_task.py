"""The tumour as data: shipped conventions against what was published, files by hand, conversions, every refusal."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from rediffinet.errors import ConfigError, LabelError
from rediffinet.task import (
    ALIASES,
    TASKS,
    LesionRules,
    Task,
    check_values,
    converted,
    find_task,
    regions_of,
    task_from,
    value_map,
)

PUBLISHED = {  # label values of each region, from the challenges' data descriptions
    "glioma-2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "glioma-2021": {"WT": {1, 2, 4}, "TC": {1, 4}, "ET": {4}},
    "glioma-decathlon": {"WT": {1, 2, 3}, "TC": {2, 3}, "ET": {3}},
    "glioma-post-2024": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}, "RC": {4}},
    "meningioma-2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "metastasis-2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "africa-2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "pediatric-2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "pediatric-2024": {"WT": {1, 2, 3, 4}, "TC": {1, 2, 3}, "ET": {1}, "CC": {3}},
}


def document(**changes):
    """A task file of two contrasts and two regions, with changes."""
    return {
        "name": "mine",
        "contrasts": ["t1c", "adc"],
        "labels": [
            {"value": 1, "name": "rest", "colour": "#112233"},
            {"value": 7, "name": "rim", "colour": "#445566"},
        ],
        "regions": [{"name": "all", "labels": [1, 7]}, {"name": "rim", "labels": [7], "parent": "all"}],
    } | changes


def test_every_shipped_task_has_the_published_regions():
    assert set(PUBLISHED) == set(TASKS)
    for name, task in TASKS.items():
        assert {region.name: set(region.labels) for region in task.regions} == PUBLISHED[name]
        assert task.contrasts == ("t1n", "t1c", "t2w", "t2f")
        assert [task.region_names[task.role(role)] for role in ("whole", "core", "enhancing")] == ["WT", "TC", "ET"]


def test_labels_have_the_names_of_the_challenge():
    """In the order of their values, from the abstracts and data descriptions of the challenges."""
    expected = {
        "glioma-decathlon": "ED NCR ET",
        "glioma-post-2024": "NETC SNFH ET RC",
        "meningioma-2023": "NETC SNFH ET",
        "metastasis-2023": "NETC SNFH ET",
        "africa-2023": "NETC SNFH ET",
        "pediatric-2023": "NC ED ET",
        "pediatric-2024": "ET NET CC ED",
    }
    for name, task in TASKS.items():
        in_order = sorted(task.labels, key=lambda label: label.value)
        assert " ".join(label.name for label in in_order) == expected.get(name, "NCR ED ET")


def test_lesion_rules_are_those_of_the_challenge():
    expected = {"meningioma-2023": (1, 50), "metastasis-2023": (1, 2)}
    for name, task in TASKS.items():
        assert (task.lesions.dilation, task.lesions.left_out_voxels) == expected.get(name, (3, 50))


@pytest.mark.parametrize("name", TASKS)
def test_painting_a_region_alone_writes_a_label_of_just_that_region_and_its_ancestors(name):
    task = TASKS[name]
    for k, value in enumerate(task.paint):
        ancestors, parent = {k}, task.parents[k]
        while parent >= 0:
            ancestors.add(parent)
            parent = task.parents[parent]
        assert set(np.flatnonzero(regions_of(np.array(value), task))) == ancestors


@pytest.mark.parametrize("name", TASKS)
def test_json_and_back(name, tmp_path):
    task = TASKS[name]
    assert Task.model_validate_json(task.model_dump_json()) == task
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task.model_dump(mode="json")), encoding="utf-8")
    assert find_task(path) == find_task(str(path)) == find_task(name) == task


def test_aliases_name_shipped_tasks():
    assert {find_task(alias).name for alias in ALIASES} <= set(TASKS)
    assert find_task("nnunet").paint == (1, 2, 3)
    assert find_task("brats2021").paint == (2, 1, 4)


def test_a_task_by_hand():
    task = task_from(document(suffixes={"adc": ["adc", "dwi"]}, roles={"enhancing": "rim"}), "mine.json")
    assert task.region_names == ("all", "rim")
    assert task.parents == (-1, 0)
    assert task.paint == (1, 7)
    assert task.suffixes_of("t1c") == ("t1c", "t1ce")
    assert task.suffixes_of("adc") == ("adc", "dwi")
    assert (task.role("whole"), task.role("enhancing")) == (None, 1)
    assert task.lesions is None
    assert task.describe_labels() == "rest = 1, rim = 7"
    assert f"trained on {task}" == "trained on mine (rest = 1, rim = 7)"


def test_a_task_is_frozen():
    with pytest.raises(ValidationError):
        TASKS["glioma-2023"].name = "other"


def test_a_region_of_several_labels_of_its_own_says_what_it_paints():
    labels = [{"value": k, "name": f"l{k}", "colour": "#000000"} for k in (1, 2, 3)]
    regions = [{"name": "all", "labels": [1, 2, 3], "paint": 2}, {"name": "in", "labels": [3], "parent": "all"}]
    assert task_from(document(labels=labels, regions=regions), "x").paint == (2, 3)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("glioma-2021", "glioma-2023", {1: 1, 2: 2, 4: 3}),
        ("glioma-decathlon", "glioma-2023", {1: 2, 2: 1, 3: 3}),
        ("glioma-post-2024", "glioma-2023", {1: 1, 2: 2, 3: 3, 4: 0}),  # the cavity is no tumour
        ("pediatric-2024", "pediatric-2023", {1: 3, 2: 1, 3: 1, 4: 2}),
        ("pediatric-2023", "pediatric-2024", {1: 2, 2: 4, 3: 1}),
        ("glioma-2023", "glioma-post-2024", {1: 1, 2: 2, 3: 3}),
        ("glioma-post-2024", "pediatric-2024", {1: 2, 2: 4, 3: 1, 4: 0}),
    ],
)
def test_values_of_one_convention_in_another(source, target, expected):
    assert value_map(TASKS[source], TASKS[target]) == expected


@pytest.mark.parametrize("source", TASKS)
@pytest.mark.parametrize("target", TASKS)
def test_converting_keeps_every_region_that_both_have(source, target):
    ours, theirs = TASKS[source], TASKS[target]
    labels = np.random.default_rng(0).choice([0, *ours.label_names], (5, 6, 7)).astype(np.uint8)
    for map_ in (labels, np.asfortranarray(labels)):
        before, after = regions_of(map_, ours), regions_of(converted(map_, ours, theirs), theirs)
        for name in set(ours.region_names) & set(theirs.region_names):
            np.testing.assert_array_equal(
                after[theirs.region_names.index(name)], before[ours.region_names.index(name)], name
            )
        assert np.isfortran(converted(map_, ours, theirs)) == np.isfortran(map_)


def test_conventions_without_a_region_in_common():
    with pytest.raises(ConfigError, match=r"(?s)Label 1 \(rest\) of 'mine' lies in all.*glioma-2023.*NCR = 1"):
        value_map(task_from(document(), "mine"), TASKS["glioma-2023"])


def test_values_outside_the_task_are_named_with_what_would_be_right():
    check_values(np.array([0, 1, 2, 3]), TASKS["glioma-2023"], "x.nii.gz")
    with pytest.raises(LabelError, match=r"(?s)x.nii.gz holds the values 4.*'glioma-2023'.*NCR = 1.*glioma-2021"):
        check_values(np.array([0, 1, 4]), TASKS["glioma-2023"], "x.nii.gz")
    with pytest.raises(LabelError, match=r"2\.0001, 77,"):
        check_values(np.array([0, 2.0001, 77]), TASKS["glioma-2023"], "x.nii.gz")


def test_a_name_that_is_no_task():
    with pytest.raises(ConfigError, match=r"(?s)no task 'gliom'.*glioma-2023"):
        find_task("gliom")


def test_a_byte_order_mark_is_no_part_of_a_task(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document()), encoding="utf-8-sig")
    assert find_task(path) == task_from(document(), "x")


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_a_file_that_is_no_json(text, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Cannot read the task .*t\.json"):
        find_task(path)


REGION = {"name": "all", "labels": [1, 7]}
RIM = {"name": "rim", "labels": [7], "parent": "all"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": [REGION, {"name": "rim", "labels": [7]}]}, r'all and rim share the label 7.*"parent": "all"'),
        (
            {"regions": [REGION | {"parent": "rim"}, RIM | {"labels": [1, 7]}]},
            r"parents go in a circle: all in rim in all",
        ),
        ({"regions": [REGION | {"parent": "all"}]}, r"circle: all in all"),
        ({"regions": [RIM, REGION]}, r"rim stands before its parent all"),
        ({"regions": [REGION, RIM | {"parent": "al"}]}, r"rim has the parent al; expected one of all"),
        ({"regions": [REGION | {"labels": [1]}, RIM]}, r"rim has the label 7, which its parent all does not"),
        (
            {"regions": [REGION, RIM | {"labels": [9]}]},
            r"rim is made of the label 9; expected some of rest = 1",
        ),
        ({"regions": [REGION, RIM | {"labels": [1, 7]}]}, r"all has no label that is not in a region inside it"),
        ({"regions": [REGION]}, r'all has the labels 1, 7 of its own; say with "paint"'),
        ({"regions": [REGION | {"paint": 7}, RIM]}, r"all paints the label 7; expected .*: 1"),
        ({"regions": [REGION, RIM, RIM]}, r"the region rim stands there twice"),
        ({"regions": [REGION | {"name": "Avg", "paint": 1}]}, r"a region is named Avg"),
        ({"regions": []}, r"regions: got \[\]"),
        ({"regions": [REGION, RIM | {"name": "a/b"}]}, r"regions\.a/b\.name: got 'a/b'"),
        ({"regions": [REGION, RIM | {"rim": 1}]}, r"regions\.rim\.rim: this field is not known"),
        ({"roles": {"whole": "WT"}}, r"the role whole is given to WT; expected one of all, rim"),
        ({"roles": {"edge": "rim"}}, r"the role edge is not known; expected one of whole, core, enhancing"),
        ({"suffixes": {"flair": ["flair"]}}, r"suffixes name the contrast flair; expected one of t1c, adc"),
        ({"suffixes": {"adc": ["t1ce"]}}, r"t1ce are those of t1c and of adc"),
        ({"suffixes": {"adc": ["seg"]}}, r"seg are those of the labels and of adc"),
        ({"contrasts": []}, r"contrasts: got \[\]"),
        ({"contrasts": ["t1c", "T2_star"]}, r'the contrast T2_star have no ending .*"T2_star": \["t2star"\]'),
        ({"contrasts": ["t1c", "t1c"]}, r"the contrast t1c stands there twice"),
        ({"labels": [{"value": 0, "name": "x", "colour": "#000000"}]}, r"labels\.x\.value: got 0"),
        ({"labels": [{"value": 1, "name": "x", "colour": "red"}]}, r"labels\.x\.colour: got 'red'"),
        ({"spacing_mm": [1.2, 0.8]}, r"spacing_mm is 1.2 to 0.8"),
        ({"spacing_mm": [0.8, float("inf")]}, r"spacing_mm is 0.8 to inf"),
        ({"lesions": {"protocol": "p", "dilation": -1, "left_out_voxels": 0}}, r"lesions\.dilation: got -1"),
        ({"schema_version": "rediffinet-task/2"}, r"schema_version: got 'rediffinet-task/2'"),
        ({"colour": "red"}, r"colour: this field is not known"),
        ({"regions": [REGION, RIM | {"labels": [7, 7]}]}, r"rim has the label 7 twice"),
        ({"regions": [REGION | {"paint": True}, RIM]}, r"regions\.all\.paint: got True"),
        ({"regions": [REGION | {"labels": [True, 7]}, RIM]}, r"regions\.all\.labels\.0: got True"),
        ({"title": "two\nlines"}, r"title: got 'two\\nlines'"),
        ({"title": "\ud800"}, r"title: got "),  # half a character, which no file can hold
        ({"lesions": {"protocol": "", "dilation": 1, "left_out_voxels": 0}}, r"lesions\.protocol: got ''"),
    ],
)
def test_a_task_that_does_not_fit_together_names_the_value_and_what_would_be_right(changes, words):
    with pytest.raises(ConfigError, match=f"(?s)mine.json does not fit together.*{words}"):
        task_from(document(**changes), "mine.json")


def test_a_list_is_not_called_short_for_an_entry_that_is_told():
    with pytest.raises(ConfigError) as error:
        task_from(document(contrasts=["a b"]), "mine.json")
    assert "contrasts.0: got 'a b'" in str(error.value)
    assert "at least 1 item" not in str(error.value)


@pytest.mark.parametrize("name", ["glioma-2023", "brats2021"])
def test_the_name_of_a_shipped_task_is_for_its_labels_and_regions(name, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document(name=name)), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"is named '{name}'.*\nExpected a name of its own"):
        find_task(path)
    wider = {**find_task("glioma-2023").model_dump(mode="json"), "spacing_mm": [0.5, 2.0]}
    path.write_text(json.dumps(wider), encoding="utf-8")
    assert find_task(path).spacing_mm == (0.5, 2.0)


@pytest.mark.parametrize("values", [[], None, "glioma", {}])
def test_a_document_that_is_no_task(values):
    with pytest.raises(ConfigError, match="x.json does not fit together"):
        task_from(values, "x.json")


def test_more_regions_than_a_byte_has_bits():
    labels = [{"value": k, "name": f"l{k}", "colour": "#000000"} for k in range(1, 10)]
    regions = [{"name": f"r{k}", "labels": [k]} for k in range(1, 10)]
    with pytest.raises(ConfigError, match=r"at most 8 items"):
        task_from(document(labels=labels, regions=regions), "x")
    assert len(task_from(document(labels=labels, regions=regions[:8]), "x").regions) == 8


def test_lesion_rules_of_a_task_by_hand():
    rules = {"protocol": "mine", "dilation": 2, "left_out_voxels": 10, "penalty_mm": 300}
    assert task_from(document(lesions=rules), "x").lesions == LesionRules(**rules)
