"""Training: what `rediff train` does, from data folders to a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rediffinet.errors import ConfigError, RediffError, TrainingError
from rediffinet.io.cases import find_cases
from rediffinet.method.models import find_model
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase, assign_folds, load_training_case, load_training_cases
from rediffinet.training.dataset import check_dataset
from rediffinet.training.distributed import Place, lone_place, together
from rediffinet.training.loop import Progress, Validate, check_folder, run_training
from rediffinet.training.objectives import make_objective
from rediffinet.training.out_of_fold import Stage, collect_priors, out_of_fold
from rediffinet.training.run import Begun, Provenance, Run, Taught, open_run
from rediffinet.training.validation import HeldOut, check_validation, make_validation
from rediffinet.trust import intensity_profile, profile_ranges


def _start(config: TrainConfig, baselines: Sequence[Run]) -> nn.Module | None:
    """The network a refiner begins with: that of the baseline trained on the same cases, which it will refine."""
    if not config.warm_start:
        return None
    own = [run for run in baselines if (run.config.fold, run.config.folds) == (config.fold, config.folds)]
    if not own:
        message = f"warm_start: got no `baseline` of fold {config.fold}, whose weights the refiner would begin with"
        raise TrainingError(message)
    return own[0].model


def _open_beginning(folder: Path, config: TrainConfig, held_out: Sequence[TrainingCase]) -> Run:
    """The run whose weights another begins with; raises TrainingError when it does not fit or has seen `held_out`."""
    run = open_run(folder)
    theirs, ours = run.config.network, config.network
    if (run.config.model, theirs) != (config.model, ours):
        message = (
            f"`begin_with={folder}`: is a run of '{run.config.model}' with {theirs}, expected one of '{config.model}' "
            f"with {ours}"
        )
        raise TrainingError(message)
    if run.config.preprocessing != config.preprocessing:
        message = f"`begin_with={folder}`: is prepared otherwise (task, normalisation or voxel size); train both alike"
        raise TrainingError(message)
    if seen := [case.name for case in held_out if case.patient in run.seen_patients]:
        message = (
            f"`begin_with={folder}`: has seen {', '.join(seen)}, which this run holds out. Give one that was trained "
            "without them, or hold out the same fold."
        )
        raise TrainingError(message)
    return run


def _open_baselines(folders: Sequence[Path], config: TrainConfig) -> list[Run]:
    """Runs that can predict for the refiner of `config`; raises TrainingError for any other."""
    runs = [open_run(folder) for folder in folders]
    for run in runs:
        if run.config.model != "unet":
            message = f"`baseline={run.path}` is a run of '{run.config.model}', expected one of 'unet'"
            raise TrainingError(message)
        if differs := config.misfits(run.config):
            message = f"`baseline={run.path}` was trained with different {', '.join(differs)}; train both alike"
            raise TrainingError(message)
    return runs


def train(
    config: TrainConfig,
    data: Sequence[Path],
    out: Path,
    *,
    baselines: Sequence[Path] = (),
    resume: bool = False,
    progress: Progress | None = None,
    stage: Stage | None = None,
    cache: Path | None = None,
    patients: Mapping[str, str] | None = None,
    predictions: Path | None = None,
    begin_with: Path | None = None,
    masks: Path | None = None,
    place: Place | None = None,
) -> Path:
    """Train one model and return its checkpoint.

    With config.fold = K the cases of fold K (patients are never split) are held out, whatever the model. A model that
    refines needs `baselines`: runs of which at least one has not seen each training case. `cache`: a folder where the
    prepared cases are kept and mapped from; `predictions`: one where those of the baselines are, by default in `out`.
    `patients`: patient of a case where its name does not tell. `begin_with`: a run of the same model, whose weights
    this one begins with; it must not have seen the cases held out. Raises TrainingError, before anything is trained,
    for a data set that cannot be used (rediffinet.training.dataset), OutputError.

    masks: a folder of label maps by another program, `CASE*.nii.gz`, which a model that learns in windows is shown too.

    place: that of this process among those that train together (`open_place`), all of which call this alike; by
    default it trains alone. A problem of one ends all before anything is trained.
    """
    if masks is not None and config.windows is None:
        raise ConfigError(
            f"`masks`: this '{config.model}' does not learn in windows, which they are for. Leave it out."
        )
    if masks is not None and not masks.is_dir():
        raise ConfigError(f"`masks={masks}` is no folder. Expected one of label maps, CASE*.nii.gz.")
    place = place or lone_place(config.device)
    if place.processes > 1 and cache is not None:
        with together(place):
            _fill_cache(config, data, cache, place)
    with together(place):
        job = _read(config, data, out, baselines, begin_with, resume, stage, cache, patients)
    folder = predictions or out / "out_of_fold"
    if job.runs and place.processes > 1:
        with together(place):
            needed = [*job.kept, *(job.held_out if config.validate_every else ())]
            out_of_fold(needed[place.rank :: place.processes], job.runs, folder, stage, place.device)
    with together(place):
        found = priors = None
        if job.runs and config.windows is not None:
            missing = config.augmentation.drop_contrast > 0.0
            priors = collect_priors(
                job.kept, job.runs, folder, missing=missing, masks=masks, stage=stage, device=place.device
            )
        elif job.runs:
            found = out_of_fold(job.kept, job.runs, folder, stage, place.device)
        objective = make_objective(config, job.kept, found, _start(config, job.runs), priors or ())
        objective.weights = None if job.beginning is None else job.beginning.model.state_dict()
        validate = _validation(job, config, folder, place, stage)
    return run_training(
        objective, out, job.provenance, resume=resume, progress=progress, place=place, validate=validate
    )


@dataclass(frozen=True)
class _Job:
    """What was found before training starts: cases of both sides, the baselines, the run to begin with, provenance."""

    kept: list[TrainingCase]
    held_out: list[TrainingCase]
    runs: list[Run]
    beginning: Run | None
    provenance: Provenance


def _fill_cache(config: TrainConfig, data: Sequence[Path], cache: Path, place: Place) -> None:
    """Prepare this process's share of the cases; what cannot be read is told when all are read."""
    folders = [path for folder in data for path in find_cases(folder, config.task)]
    for path in folders[place.rank :: place.processes]:
        try:
            load_training_case(path, config.preprocessing, cache)
        except RediffError:
            continue


def _validation(job: _Job, config: TrainConfig, folder: Path, place: Place, stage: Stage | None) -> Validate | None:
    """What scores the network during training, when that is asked for."""
    if not config.validate_every:
        return None
    priors = out_of_fold(job.held_out, job.runs, folder, stage, place.device) if job.runs else None
    return make_validation(config, HeldOut(job.held_out, priors, job.runs[0] if job.runs else None), place)


def _read(
    config: TrainConfig,
    data: Sequence[Path],
    out: Path,
    baselines: Sequence[Path],
    begin_with: Path | None,
    resume: bool,
    stage: Stage | None,
    cache: Path | None,
    patients: Mapping[str, str] | None,
) -> _Job:
    """Read and check everything, before anything is made."""
    kind = find_model(config.model)
    if kind.refines != bool(baselines):
        message = (
            f"`baseline`: got {len(baselines)} for model '{config.model}'. A model that refines needs one or more "
            "baseline runs (trained with `fold`, so that each case is out of fold for one of them); others take none."
        )
        raise TrainingError(message)
    check_folder(out, resume=resume)
    runs = _open_baselines(baselines, config)
    cases = load_training_cases(
        data,
        config.preprocessing,
        (lambda i, n: stage("reading cases", i, n)) if stage else None,
        cache=cache,
        patients=patients,
    )
    folds = assign_folds([case.name for case in cases], config.folds, config.fold_seed, patients)
    kept = [case for case in cases if config.fold is None or folds[case.name] != config.fold]
    held_out = [case for case in cases if folds[case.name] == config.fold]
    if not kept or (config.fold is not None and not held_out):
        message = (
            f"`fold={config.fold}` of {config.folds} leaves {len(kept)} cases to train on and {len(held_out)} held "
            f"out: the {len(cases)} cases found are of {len({case.patient for case in cases})} patients, which are "
            "never split. Give more data, or fewer `folds`."
        )
        raise TrainingError(message)
    check_dataset(cases, folds, config.preprocessing, *(() if config.fold is None else (config.fold,)))
    profiles = [intensity_profile(case.image, config.normalisation.background, config.task.contrasts) for case in kept]
    beginning = None if begin_with is None else _open_beginning(begin_with, config, held_out)
    provenance = Provenance(
        trained_on=tuple(case.name for case in kept),
        held_out=tuple(case.name for case in held_out),
        folds=config.folds,
        fold=config.fold,
        patients={case.name: case.patient for case in cases if case.name in (patients or {})} or None,
        intensities=profile_ranges(profiles),
        baselines=tuple(Taught(sha256=run.sha256, fold=run.config.fold) for run in runs),
        begun_with=None
        if beginning is None
        else Begun(sha256=beginning.sha256, patients=tuple(sorted(beginning.seen_patients))),
    )
    if config.validate_every:
        check_validation(config, held_out, runs)
    return _Job(kept, held_out, runs, beginning, provenance)
