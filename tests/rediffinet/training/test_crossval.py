"""Cross-validation in pieces: what is done, in which order, by whom, and what is skipped."""

import csv
import fcntl
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

from rediffinet.errors import ConfigError, OutputError, TrainingError
from rediffinet.io.cases import find_labels, load_case, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.method.recipe import NEVER, Decision
from rediffinet.metrics import dice
from rediffinet.phantom import write_phantoms
from rediffinet.task import TASKS
from rediffinet.training import crossval
from rediffinet.training.crossval import Piece, Study, crossvalidate, piece_config, plan_pieces
from rediffinet.training.recipe import InferenceSettings
from rediffinet.training.run import open_run
from rediffinet.training.scoring import load_found

SETTINGS = (
    "unet.features=4,8",
    "unet.window=16,16,16",
    "unet.deep_supervision=true",
    "refiner.features=4,8",
    "refiner.head_features=4",
    "refiner.window=16,16,16",
    "steps=2",
    "learning_rate=0.05",  # no voxel is left as near to a threshold as float16 rounds
    "warmup=1",
    "mirror=false",
    "autocast=false",  # bfloat16 is fifty times as slow where the processor does not know it
)
FEW = InferenceSettings(steps=2, samples=2)


def study_of(data: Path, out: Path, **changes: object) -> Study:
    plain = Study(
        (data,), out, ("unet", "rediffinet"), folds=2, settings=SETTINGS, inference=FEW, cache=out.parent / "cache"
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled phantoms of four patients, smaller than those of other tests: each is scored hundreds of times."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 4, 3, shape=(32, 36, 32))
    return folder


@pytest.fixture(scope="module")
def done(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[str]]:
    """A finished study of two models, and what it told meanwhile."""
    study = study_of(phantoms, tmp_path_factory.mktemp("crossval") / "study")
    told: list[str] = []
    crossvalidate(study, tell=told.append)
    return study, told


def rows_of(study: Study) -> list[dict[str, str]]:
    with (study.out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_stage_2_needs_the_baselines_of_all_folds(tmp_path: Path) -> None:
    pieces = plan_pieces(study_of(tmp_path, tmp_path / "o", folds=3, only=(1,), models=("rediffinet", "diff-unet")))
    assert pieces == [
        Piece(0, 0, "unet"),
        Piece(0, 1, "unet"),
        Piece(0, 2, "unet"),
        Piece(0, 1, "rediffinet"),
        Piece(0, 1, "diff-unet"),
    ]


def test_models_without_a_baseline_need_none(tmp_path: Path) -> None:
    pieces = plan_pieces(study_of(tmp_path, tmp_path / "o", only=(1,), models=("diff-unet",), seeds=(3, 4)))
    assert pieces == [Piece(3, 1, "diff-unet"), Piece(4, 1, "diff-unet")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("unet", "resnet")}, "resnet.*rediffinet"),
        ({"only": (0, 2)}, "got 2, expected 0 to 1"),
        ({"settings": ("stepz=3",)}, "stepz"),
        ({"settings": ("resnet:steps=3",)}, "resnet"),
    ],
)
def test_wrong_choices_end_before_anything_is_read(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        crossvalidate(study_of(tmp_path / "no-such-data", tmp_path / "o", **changes))


def test_settings_of_one_model(tmp_path: Path) -> None:
    study = study_of(tmp_path, tmp_path / "o", settings=("steps=7", "rediffinet:steps=9", "unet:learning_rate=0.5"))
    unet, refiner = (piece_config(study, Piece(2, 1, model)) for model in ("unet", "rediffinet"))
    assert (unet.steps, refiner.steps) == (7, 9)
    assert unet.learning_rate == 0.5 != refiner.learning_rate
    assert (unet.seed, unet.fold, unet.folds) == (2, 1, 2)


def test_every_case_is_scored_once_by_a_model_that_has_not_seen_it(done: tuple[Study, list[str]]) -> None:
    study, _ = done
    rows = rows_of(study)
    counts = Counter((row["model"], row["case"], row["region"]) for row in rows)
    folds = json.loads((study.out / "folds.json").read_text())["cases"]
    assert set(counts.values()) == {1}
    assert {key[1] for key in counts} == set(folds) and len(counts) == 2 * 4 * len(folds)
    for row in rows:
        run = open_run(Piece(0, int(row["fold"]), row["model"]).folder(study))
        assert folds[row["case"]]["fold"] == int(row["fold"])
        assert row["case"] in run.provenance.held_out and row["case"] not in run.provenance.trained_on


def test_scores_are_those_of_the_bundle_on_the_same_case(
    done: tuple[Study, list[str]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The independent way: export the two runs and segment the case from its files."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    request.getfixturevalue("small_gate")
    request.getfixturevalue("traced_once")
    from rediffinet.export.bundle import ExportSettings, export_bundle
    from rediffinet.segmenter import Segmenter

    study, _ = done
    folder = study.out / "seed0" / "fold0"
    settings = ExportSettings(steps=study.inference.steps, samples=study.inference.samples)
    bundle = export_bundle(open_run(folder / "rediffinet"), open_run(folder / "unet"), tmp_path / "bundle", settings)
    name = open_run(folder / "unet").provenance.held_out[0]
    case = load_case(study.data[0] / name)
    path = find_labels(study.data[0] / name)
    assert path is not None
    reference = load_label_map(path, Conventions(TASKS["glioma-2023"]), case.grid)
    with Segmenter(bundle, "onnxruntime") as segmenter:
        result = segmenter.segment(case)
    full = np.zeros(case.images.shape[1:], np.uint8)
    full[result.box] = result.crop_labels
    expected = dice(full > 0, reference > 0)
    row = next(r for r in rows_of(study) if (r["model"], r["case"], r["region"]) == ("rediffinet", name, "WT"))
    # the baseline's probabilities are kept as float16 between the stages
    assert float(row["dice"]) == pytest.approx(expected, abs=2e-3)


def test_calibration_of_a_finished_study(done: tuple[Study, list[str]]) -> None:
    from typer.testing import CliRunner

    from rediffinet.cli.main import app
    from rediffinet.training.calibrate_study import read_calibration

    study, _ = done
    arguments = ["calibrate", str(study.out), "--data", str(study.data[0]), "--cache", str(study.cache)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for wrong in ("sure", "1.5"):
        for option in ("--unsure-enhancement", "--whole-components"):
            refused = CliRunner().invoke(app, [*arguments, option, wrong])
            assert isinstance(refused.exception, ConfigError) and f"{option}: got '{wrong}'" in str(refused.exception)
    for wrong in ("far", "0", "inf", "2,2"):
        refused = CliRunner().invoke(app, [*arguments, "--reach", wrong])
        assert isinstance(refused.exception, ConfigError) and f"--reach: got '{wrong}'" in str(refused.exception)
    folder = study.out / "calibrated"
    assert result.stdout.strip().splitlines()[-1] == str(folder / "rediffinet-decision.json")
    with (folder / "rediffinet-sweep.csv").open(newline="") as file:
        swept = list(csv.DictReader(file))
    # at the threshold of the study itself the sweep repeats the study's scores
    scored = {(r["case"], r["region"]): r["dice"] for r in rows_of(study) if r["model"] == "rediffinet"}
    again = {(r["case"], r["region"]): r["dice"] for r in swept if float(r["threshold"]) == 0.5}
    assert again.keys() == scored.keys()
    for key, dice_ in again.items():
        assert float(dice_) == pytest.approx(float(scored[key]), abs=2e-3)  # what was found is kept as float16
    report = json.loads((folder / "rediffinet-uncertainty.json").read_text())
    assert report["before"]["expected_calibration_error"] >= 0.0
    calibration = read_calibration(folder, "rediffinet")
    assert len(calibration.decision.adding) == 3 and calibration.decision.adding == calibration.decision.removing
    with pytest.raises(ConfigError, match=r"discrepancy-unet-decision.json.*rediff calibrate"):
        read_calibration(folder, "discrepancy-unet")
    found = [load_found(path) for path in study.out.glob("seed0/*/rediffinet/found/*.npz")]
    means = [float(one.disagreement[one.sampled].mean()) for one in found]
    assert min(means) <= calibration.disagreement <= max(means)
    metrics = calibration.metrics
    wt = [float(r["dice"]) for r in rows_of(study) if (r["model"], r["region"]) == ("unet", "WT")]
    assert metrics["held_out_cases"] == len(wt) == len(found)
    assert metrics["baseline"]["WT"]["dice"]["mean"] == pytest.approx(sum(wt) / len(wt), abs=1e-4)
    told = metrics["core_unsure"]
    assert told["warned_and_poor"] <= min(told["poor"], told["warned"]) and told["cases"] <= len(found)
    covered = metrics["margin"]["regions"]
    assert set(covered) <= {"WT", "TC", "ET"}
    assert all(0.0 <= part["least"] <= part["coverage"] <= 1.0 for part in covered.values())
    assert all(part["cases"] + part["missed"] <= len(found) for part in covered.values())


def test_the_confidence_of_enhancing_tumour_is_chosen_on_other_folds(done: tuple[Study, list[str]]) -> None:
    """Against the choice made by hand from the scores with and without it."""
    from rediffinet.training.calibrate import choose_unsure_enhancement, enhancing_of
    from rediffinet.training.calibrate_study import calibrate_study, read_calibration
    from rediffinet.training.crossval import finished, gather, reopen

    study, _ = done
    opened = reopen(study.out, study.data, cache=study.cache, inference=FEW)
    recipe, found = gather(finished(opened, "rediffinet", 0))
    seen = [enhancing_of(recipe, one) for one in found]
    unflipped = recipe.decision.changed(thresholds=(1.0,) * 3)
    for one, case in zip(found, seen, strict=True):
        assert case.dice == pytest.approx(dice(one.decoded(recipe, unflipped).baseline == 3, one.reference == 3))
    chosen = calibrate_study(opened, "rediffinet", 0, unsure_enhancement=None)
    assert chosen.chosen.unsure_enhancement == choose_unsure_enhancement(seen)
    limits = {fold: choice.unsure_enhancement for fold, choice in chosen.per_fold.items()}
    for fold, limit in limits.items():
        assert limit == choose_unsure_enhancement([case for case in seen if case.fold != fold])
    written = read_calibration(study.out / "calibrated", "rediffinet")
    assert written.decision == chosen.chosen
    others = {int(f): Decision(**choice) for f, choice in written.metrics["decision_of_the_other_folds"].items()}
    assert others == chosen.per_fold
    calibrate_study(opened, "rediffinet", 0, unsure_enhancement=1.0, thresholds=(0.5,) * 3)
    with (study.out / "calibrated" / "rediffinet.csv").open(newline="") as file:
        scores = {row["dice"] for row in csv.DictReader(file) if row["region"] == "ET" and int(row["reference_voxels"])}
    assert scores == {"0"}, "nothing is called enhancing"


def test_the_doubt_of_components_is_chosen_on_other_folds(done: tuple[Study, list[str]]) -> None:
    """Against the choice made by hand from the scores of every case and limit."""
    from rediffinet.training.calibrate import (
        COMPONENTS,
        choose_thresholds,
        choose_whole_components,
        sweep,
    )
    from rediffinet.training.calibrate_study import calibrate_study
    from rediffinet.training.crossval import finished, gather, reopen

    study, _ = done
    opened = reopen(study.out, study.data, cache=study.cache, inference=FEW)
    recipe, found = gather(finished(opened, "rediffinet", 0))
    names = recipe.task.region_names
    unflipped = recipe.decision.changed(thresholds=(NEVER,) * 3)
    swept = {
        limit: [row for one in found for row in one.rows(recipe, unflipped.changed(whole_components=limit))]
        for limit in COMPONENTS
    }
    swept[NEVER] = [row for one in found for row in one.baseline_rows(recipe, recipe.decision)]
    calibrated = calibrate_study(opened, "rediffinet", 0, whole_components=None)
    assert calibrated.chosen.whole_components == choose_whole_components(swept, names)
    limits = {fold: choice.whole_components for fold, choice in calibrated.per_fold.items()}
    for fold, limit in limits.items():
        others = {value: [row for row in rows if row["fold"] != str(fold)] for value, rows in swept.items()}
        assert limit == choose_whole_components(others, names)
    whole = recipe.decision.changed(whole_components=calibrated.chosen.whole_components)
    assert calibrated.chosen.adding == choose_thresholds(sweep(recipe, found, whole), names)
    given = calibrate_study(opened, "rediffinet", 0, whole_components=0.3, thresholds=(0.5,) * 3)
    assert {choice.whole_components for choice in given.per_fold.values()} == {0.3}


def test_masks_made_elsewhere_and_missing_contrasts_are_scored_on_their_own(
    done: tuple[Study, list[str]], tmp_path: Path
) -> None:
    """The truth as another program's mask: before refinement it is without a fault, of two cases that have one."""
    from rediffinet.training.calibrate_study import calibrate_study, read_calibration
    from rediffinet.training.crossval import finished, gather, reopen
    from rediffinet.training.otherwise import found_without

    study, _ = done
    opened = reopen(study.out, study.data, cache=study.cache, inference=FEW)
    folders = sorted(path for path in study.data[0].iterdir() if path.is_dir())
    with pytest.raises(TrainingError, match="label map of none"):
        calibrate_study(opened, "rediffinet", 0, masks=tmp_path)
    for folder in folders[:2]:
        (tmp_path / f"{folder.name}-other.nii.gz").write_bytes(find_labels(folder).read_bytes())
    told: list[tuple[str, int, int]] = []
    calibrate_study(
        opened,
        "rediffinet",
        0,
        thresholds=(0.5, 0.5, NEVER),
        reach_mm=(2.0, 2.0, 4.0),
        masks=tmp_path,
        missing=True,
        stage=lambda *now: told.append(now),
    )
    without_each = {f"without {contrast}" for contrast in study.task.contrasts}
    assert {what for what, _, _ in told} == {"refinement", "other programs' masks"} | without_each
    written = read_calibration(study.out / "calibrated", "rediffinet")
    given = written.metrics["given_masks"]
    assert given["cases"] == 2 and all(given["baseline"][r]["dice"]["mean"] == 1.0 for r in ("WT", "TC", "ET"))
    assert written.decision.adding == (0.5, 0.5, NEVER)
    assert written.decision.reach_mm == written.given.reach_mm == (2.0, 2.0, 4.0)
    assert written.given == Decision(**given["decision"]) and written.given.adding == (NEVER,) * 3
    # nothing can be better than the truth; the rule on small components is for the refined map alone
    assert all(given["refined"][r]["dice"]["mean"] > 0.99 for r in ("WT", "TC", "ET"))
    without = written.metrics["missing_contrasts"]
    assert tuple(without) == study.task.contrasts
    for scores in without.values():
        assert scores["cases"] == len(folders) and set(scores["dice"]) == {"WT", "TC", "ET"} == set(scores["hd95"])
    pieces = finished(opened, "rediffinet", 0)
    whole = {one.case.name: one.inferred.probability for one in gather(pieces)[1]}
    for one in found_without(pieces, 1, pieces[0].recipe):
        assert not np.array_equal(one.inferred.probability, whole[one.case.name]), "the baseline does not see t1c"


def test_evidence_is_weighed_by_the_run_that_had_not_seen_the_case(done: tuple[Study, list[str]]) -> None:
    """Against what `found_without` finds where two pieces are put in the baseline's place: the larger stands."""
    from rediffinet.method.evidence import unsupported_components
    from rediffinet.method.recipe import Evidence, SmallComponents
    from rediffinet.training.calibrate_study import calibrate_study, read_calibration
    from rediffinet.training.crossval import finished, gather, reopen
    from rediffinet.training.otherwise import found_without, weigh_evidence

    study, _ = done
    opened = reopen(study.out, study.data, cache=study.cache, inference=FEW)
    pieces = finished(opened, "rediffinet", 0)
    recipe, found = gather(pieces)
    evidence = Evidence(without=("t1n", "t2w"), least=1.0)
    loose = recipe.decision.changed(evidence=evidence, small_components=SmallComponents(min_voxels=0))
    recipe = recipe.with_decision(loose)
    without = {index: found_without(pieces, index, pieces[0].recipe) for index in (0, 2)}
    for one in found:
        one.inferred.probability[:] = 0.1
        one.inferred.probability[:, 1:5, 1:5, 1:5] = one.inferred.probability[:, 8:10, 8:10, 8:10] = 0.9
    for place, one in enumerate(weigh_evidence(pieces, found, recipe)):
        left = {index: others[place].inferred.probability for index, others in without.items()}
        expected = unsupported_components(recipe, one.inferred.probability, left.__getitem__)
        assert np.array_equal(one.inferred.unsupported, expected)
        assert expected[8:10, 8:10, 8:10].all(), "no run is all sure of it"
        decoded = one.decoded(recipe, recipe.decision.changed(thresholds=(NEVER,) * 3))
        assert decoded.left_out_voxels > 0 and not decoded.labels[16:20, 16:20, 16:20].any()
    calibrate_study(opened, "rediffinet", 0, thresholds=(0.5,) * 3, evidence=evidence)
    written = read_calibration(study.out / "calibrated", "rediffinet")
    assert written.decision.evidence == evidence


def test_a_study_begins_with_the_weights_of_another(
    done: tuple[Study, list[str]], phantoms: Path, tmp_path: Path
) -> None:
    first, _ = done
    settings = (*SETTINGS, "learning_rate=1e-12", "steps=1", "warmup=0")
    second = study_of(phantoms, tmp_path / "more", begin_with=first.out, settings=settings, cache=first.cache)
    crossvalidate(second)
    for piece in plan_pieces(second):
        begun, before = open_run(piece.folder(second)), open_run(piece.folder(first))
        assert begun.provenance.begun_with.sha256 == before.sha256
        own = before.model.state_dict()
        assert all(np.allclose(value, own[name], atol=1e-5) for name, value in begun.model.state_dict().items())
    elsewhere = study_of(phantoms, tmp_path / "wrong", begin_with=tmp_path / "nothing", cache=first.cache)
    with pytest.raises(TrainingError, match="nothing"):
        crossvalidate(elsewhere)


def test_networks_of_two_studies_answer_beside_each_other(done: tuple[Study, list[str]], tmp_path: Path) -> None:
    """The other study's differ by a trifle: so does the mean of both."""
    from rediffinet.training.calibrate_study import calibrate_study
    from rediffinet.training.checkpoint import CHECKPOINT, read_checkpoint, save_best
    from rediffinet.training.crossval import finished, gather, reopen
    from rediffinet.training.otherwise import found_again

    first, _ = done
    opened = reopen(first.out, first.data, cache=first.cache, inference=FEW)
    second, turned = tmp_path / "second", tmp_path / "turned"
    for fold in (0, 1):
        run = Piece(0, fold, "rediffinet")
        state = open_run(run.folder(first)).model.state_dict()
        _, metadata = read_checkpoint(run.folder(first) / CHECKPOINT)
        for folder in (run.within(second), Piece(0, 1 - fold, "rediffinet").within(turned)):
            folder.mkdir(parents=True)
            save_best(folder / CHECKPOINT, {name: 1.001 * value for name, value in state.items()}, metadata)
    alone, both = finished(opened, "rediffinet", 0), finished(opened, "rediffinet", 0, [second])
    recipe, bare = gather(both, kept=False)
    assert all(piece.run.members == 2 for piece in both) and all(one.inferred.found is None for one in bare)
    near = recipe.with_decision(recipe.decision.changed(reach_mm=2.0))
    mine, ours = found_again(alone, bare, near), found_again(both, bare, near)
    for one, other in zip(mine, ours, strict=True):
        assert one.case.name == other.case.name and one.inferred.found.sampled.any()
        assert 0.0 < np.abs(one.inferred.found.delta - other.inferred.found.delta).max() < 0.02
    calibrated = calibrate_study(opened, "rediffinet", 0, thresholds=(0.5,) * 3, beside=[second])
    assert calibrated.chosen.adding == (0.5,) * 3
    with pytest.raises(TrainingError, match="have seen .* holds out"):
        finished(opened, "rediffinet", 0, [turned])


def test_a_finished_study_does_nothing(done: tuple[Study, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    study, told = done
    assert sum("begun" in line for line in told) == 4
    monkeypatch.setattr(crossval, "train", None)
    monkeypatch.setattr(crossval, "score_run", None)
    again: list[str] = []
    assert crossvalidate(study, tell=again.append) == study.out / "scores.csv"
    assert not any("begun" in line for line in again)


def test_a_piece_without_scores_is_scored_again_without_training(
    done: tuple[Study, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = done
    before = (study.out / "scores.csv").read_bytes()
    (study.out / "seed0" / "fold1" / "rediffinet" / "scores.csv").unlink()
    monkeypatch.setattr(crossval, "train", None)
    crossvalidate(study)
    assert (study.out / "scores.csv").read_bytes() == before


def test_another_configuration_is_not_taken_for_finished(done: tuple[Study, list[str]]) -> None:
    study, _ = done
    scores = study.out / "seed0" / "fold1" / "rediffinet" / "scores.csv"
    content = scores.read_bytes()
    scores.unlink()
    with pytest.raises(TrainingError, match="another configuration"):
        crossvalidate(replace(study, settings=(*SETTINGS, "learning_rate=0.5")))
    scores.write_bytes(content)


def test_other_folds_need_another_folder(done: tuple[Study, list[str]]) -> None:
    study, _ = done
    with pytest.raises(OutputError, match="other cases or folds"):
        crossvalidate(replace(study, fold_seed=study.fold_seed + 1, folds=3))


def test_a_piece_that_another_process_holds_is_left_to_it(
    done: tuple[Study, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = done
    folder = study.out / "seed0" / "fold0" / "rediffinet"
    content = (folder / "scores.csv").read_bytes()
    (folder / "scores.csv").unlink()
    monkeypatch.setattr(crossval, "train", None)
    monkeypatch.setattr(crossval, "score_run", None)
    held = (folder / ".lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)

    def other_process_finishes(seconds: float) -> None:
        (folder / "scores.csv").write_bytes(content)

    monkeypatch.setattr(crossval.time, "sleep", other_process_finishes)
    told: list[str] = []
    crossvalidate(study, tell=told.append)
    held.close()
    assert any("other processes" in line for line in told)
