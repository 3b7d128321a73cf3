"""A case without one of its contrasts: what the network sees, what is told, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import MissingContrast, open_bundle
from rediffinet.errors import BundleError, CaseError, MissingContrastError
from rediffinet.io.cases import Case, find_cases, load_case
from rediffinet.io.preview import shown_contrasts
from rediffinet.method.normalise import Normalisation, normalise
from rediffinet.method.preprocessing import Preprocessing, preprocess
from rediffinet.segmenter import Segmenter
from rediffinet.task import DEFAULT_TASK, TASKS

TASK = TASKS[DEFAULT_TASK]
SCORES = {
    "protocol": "brats2023-gli",
    "cases": 28,
    "dice": {"WT": 0.8, "TC": 0.7, "ET": 0.5},
    "hd95": {"WT": 9.0, "TC": 8.0, "ET": 30.0},
}


@pytest.fixture(scope="module")
def scored(make_toy_bundle: Callable[..., Any]) -> Any:
    """A bundle with scores of cases without t1n and of cases without t2w."""
    return make_toy_bundle(metrics={"missing_contrasts": {"t1n": SCORES, "t2w": SCORES}})


def without(folder: Path, *contrasts: str) -> Path:
    for contrast in contrasts:
        (folder / f"toy-{contrast}.nii.gz").unlink()
    return folder


@pytest.mark.parametrize("contrast", ["t1n", "t2w"])
def test_the_network_sees_background_in_its_place(scored: Any, toy_folder: Path, contrast: str) -> None:
    whole = load_case(toy_folder)
    case = load_case(without(toy_folder, contrast), allow_missing=True)
    assert case.missing == (contrast,)
    assert case.images.shape == whole.images.shape
    assert not case.images[TASK.contrasts.index(contrast)].any()
    with Segmenter.open(scored.path) as segmenter:
        full, result = segmenter.segment(whole), segmenter.segment(case)
    expected = full.crop_image.copy()
    expected[TASK.contrasts.index(contrast)] = -1.0
    assert np.array_equal(result.crop_image, expected)
    regions = scored.formula.probability(expected) > 0.5
    assert np.array_equal(result.crop_baseline > 0, regions[0])
    assert np.array_equal(result.crop_baseline == 3, regions.all(axis=0))


def test_the_report_warns_with_the_scores(scored: Any, toy_folder: Path) -> None:
    case = load_case(without(toy_folder, "t2w"), allow_missing=True)
    with Segmenter.open(scored.path) as segmenter:
        report = segmenter.segment(case).report
    assert report.missing_contrasts == ["t2w"]
    assert [info.contrast for info in report.inputs] == ["t1n", "t1c", "t2f"]
    (warning,) = [one for one in report.warnings if one.code == "contrast-missing"]
    for said in ("no t2w", "WT 0.800", "ET 30.0", "28 held-out cases", "brats2023-gli"):
        assert said in warning.message
    assert report.warnings[0] is warning


@pytest.mark.parametrize(
    ("which", "contrasts", "said"),
    [
        ("scored", ("t2f",), "without t1n, without t2w"),
        ("scored", ("t1n", "t2w"), "without t1n, without t2w"),
        ("toy_bundle", ("t1n",), "with all contrasts alone"),
    ],
)
def test_a_combination_without_scores_is_refused(
    request: pytest.FixtureRequest, make_toy_images: Any, which: str, contrasts: tuple[str, ...], said: str
) -> None:
    case = Case.from_arrays("toy", make_toy_images(), np.diag([-1, -1, 1, 1]), missing=contrasts)
    bundle = request.getfixturevalue(which).path
    with Segmenter.open(bundle) as segmenter, pytest.raises(MissingContrastError) as caught:
        segmenter.segment(case)
    assert said in caught.value.expected
    assert ", ".join(contrasts) in caught.value.found


def test_what_stands_in_its_place_does_not_count(make_toy_images: Any) -> None:
    images = make_toy_images()
    images[2] = np.nan
    case = Case.from_arrays("toy", images, np.diag([-1, -1, 1, 1]), missing=["t2w"])
    assert not case.images[2].any()
    assert not case.warnings


@pytest.mark.parametrize("missing", [["pd"], list(TASK.contrasts)])
def test_missing_must_be_some_of_the_contrasts(make_toy_images: Any, missing: list[str]) -> None:
    with pytest.raises(CaseError, match="Expected some of t1n"):
        Case.from_arrays("toy", make_toy_images(), np.eye(4), missing=missing)


def test_files_without_a_contrast_are_refused_unless_allowed(toy_folder: Path) -> None:
    with pytest.raises(CaseError, match="allow_missing=True"):
        load_case(without(toy_folder, "t1n"))
    files = {contrast: toy_folder / f"toy-{contrast}.nii.gz" for contrast in ("t1c", "t2w", "t2f")}
    with pytest.raises(CaseError, match="one for each of"):
        load_case(files=files)
    assert load_case(files=files, allow_missing=True).missing == ("t1n",)
    with pytest.raises(CaseError, match="missing: t1n, t2f"):
        load_case(without(toy_folder, "t2f"), allow_missing=True)


def test_two_files_for_another_contrast_are_ambiguous_all_the_same(toy_folder: Path) -> None:
    without(toy_folder, "t1n")
    (toy_folder / "toy_t2.nii.gz").write_bytes(b"")
    with pytest.raises(CaseError, match="more than one file: t2w"):
        load_case(toy_folder, allow_missing=True)


def test_it_is_saved_without_the_contrast(toy_folder: Path, tmp_path: Path) -> None:
    case = load_case(without(toy_folder, "t2w"), allow_missing=True)
    assert set(case.save(tmp_path / "again")) == {"t1n", "t1c", "t2f"}


def test_cases_that_lie_together_may_each_lack_one(tmp_path: Path) -> None:
    for case in ("A", "B"):
        for contrast in ("t1n", "t1c", "t2f"):
            (tmp_path / f"{case}-{contrast}.nii.gz").touch()
    assert find_cases(tmp_path, allow_missing=True) == [tmp_path / "A", tmp_path / "B"]


@pytest.mark.parametrize("background", [-1.0, 0.0])
def test_it_is_background_too_after_resampling(make_toy_images: Any, background: float) -> None:
    how = Preprocessing(TASK, Normalisation(background=background), (2.0, 2.0, 2.0))
    images = make_toy_images()
    images[1] = 0
    image = preprocess(images, (1.0, 1.0, 1.0), how, missing=("t1c",)).image
    assert np.unique(image[1]).tolist() == [background]


def test_it_is_what_training_shows_when_it_drops_a_contrast(make_toy_images: Any) -> None:
    torch = pytest.importorskip("torch")
    from rediffinet.training.config import Augmentation
    from rediffinet.training.sampling import augment_intensity

    off = dict.fromkeys(("gamma", "gain", "bias_field", "blur", "thick_slices", "noise", "cut_off"), 0.0)
    settings = Augmentation.model_validate({**off, "drop_contrast": 1.0})
    for recipe in (Normalisation(), Normalisation(method="zscore", range=(-3, 3), background=0.0)):
        images = normalise(make_toy_images(), recipe)
        dropped = augment_intensity(
            np.random.default_rng(0), settings, torch.from_numpy(images), recipe.range, recipe.background
        )
        ours = normalise(make_toy_images(), recipe, TASK.contrasts, TASK.contrasts)
        assert np.array_equal(dropped.numpy(), ours)


def test_a_preview_shows_what_is_there() -> None:
    assert shown_contrasts(TASK) == ("t1c", "t2f")
    assert shown_contrasts(TASK, ["t1c"]) == ("t2f", "t1n")
    assert shown_contrasts(TASK, ["t2f"]) == ("t1c", "t1n")


@pytest.mark.parametrize(
    ("scores", "said"),
    [({"t1n": {**SCORES, "cases": 0}}, "cases"), ({"t1n": {"dice": {}}}, "protocol"), ({"pd": SCORES}, "names pd")],
)
def test_scores_that_do_not_fit_are_refused_at_opening(
    make_toy_bundle: Callable[..., Any], scores: dict[str, Any], said: str
) -> None:
    bundle = make_toy_bundle(metrics={"missing_contrasts": scores})
    with pytest.raises(BundleError, match=said):
        open_bundle(bundle.path)


def test_scores_are_a_typed_part_of_the_manifest(scored: Any) -> None:
    manifest = open_bundle(scored.path).manifest
    assert manifest.missing_contrasts == {name: MissingContrast(**SCORES) for name in ("t1n", "t2w")}
    assert type(manifest).model_validate_json(manifest.model_dump_json()) == manifest


# --- the command line -----------------------------------------------------------------------------------------------


def test_segment_allow_missing(rediff: Any, scored: Any, toy_folder: Path, tmp_path: Path) -> None:
    arguments = ("--bundle", scored.path, "-o", tmp_path / "out", "--allow-missing", "--json")
    done = rediff("segment", without(toy_folder, "t1n"), *arguments)
    assert done.code == 0, done.err
    assert "toy: warning (contrast-missing): The case has no t1n." in done.err
    assert json.loads(done.out)["missing_contrasts"] == ["t1n"]
    assert (tmp_path / "out" / "toy-preview.png").is_file()
    assert "skipped" in rediff("segment", toy_folder, *arguments, "--skip-existing").err


def test_segment_says_the_flag_and_refuses_where_there_are_no_scores(
    rediff: Any, scored: Any, toy_folder: Path, tmp_path: Path
) -> None:
    without(toy_folder, "t2f")
    arguments = ("segment", toy_folder, "--bundle", scored.path, "-o", tmp_path / "out")
    done = rediff(*arguments)
    assert done.code == 2
    assert "To segment without t2f, where the bundle has scores of that: --allow-missing." in done.err
    done = rediff(*arguments, "--allow-missing")
    assert done.code == 2
    assert "without t1n, without t2w" in done.err
    assert not (tmp_path / "out").exists()


def test_a_margin_is_refused_before_a_case_without_a_contrast_is_computed(
    rediff: Any, make_toy_bundle: Callable[..., Any], toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_toy_bundle(metrics={"missing_contrasts": {"t1n": SCORES}}, margin={"scale_mm": [9.0, 9.0, 9.0]})
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("it is computed"))
    arguments = ("--bundle", bundle.path, "-o", tmp_path / "out", "--allow-missing", "--save-margin")
    done = rediff("segment", without(toy_folder, "t1n"), *arguments)
    assert done.code == 2
    assert "a case without t1n" in done.err and "leave --save-margin out" in done.err
    assert not (tmp_path / "out").exists()


def test_a_case_that_was_finished_with_all_contrasts_is_done_again(
    rediff: Any, scored: Any, toy_folder: Path, tmp_path: Path
) -> None:
    arguments = ("--bundle", scored.path, "-o", tmp_path / "out", "--no-preview", "--skip-existing", "--allow-missing")
    assert rediff("segment", toy_folder, *arguments).code == 0
    done = rediff("segment", without(toy_folder, "t2w"), *arguments)
    assert done.code == 0
    assert "done again: no t2w any more" in done.err
