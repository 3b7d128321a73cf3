"""Arrays in, arrays out: a bundle on an engine segments a case."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import Graph
from rediffinet.errors import CaseCancelledError, ConfigError, DeadlineError
from rediffinet.findings import Findings, findings
from rediffinet.io.cases import Case
from rediffinet.io.masks import BaselineMask, mask_from_labels
from rediffinet.io.segmented import Labels, Volume
from rediffinet.method.decode import Decoded, decode
from rediffinet.method.inference import (
    Inferred,
    Loaded,
    Plan,
    find_discrepancy,
    find_unsupported,
    plan_sampling,
    predict_baseline,
)
from rediffinet.method.margin import Margin, margins
from rediffinet.method.models import MODELS
from rediffinet.method.preprocessing import Preprocessed, preprocess, regrid, to_spacing
from rediffinet.method.recipe import Recipe
from rediffinet.method.refine import Discrepancy
from rediffinet.opened import Opened
from rediffinet.report import (
    BaselineInfo,
    BundleInfo,
    EngineInfo,
    MarginInfo,
    Report,
    SamplingInfo,
    Seconds,
    Warning_,
    peak_rss_mb,
)
from rediffinet.result import Result
from rediffinet.task import Task
from rediffinet.trust import check_disagreement, check_result

_WORDS = {"ED": "edema", "NCR": "necrosis", "ET": "enhancing"}
"""What reports call these labels; others have the names of the task."""
Progress = Callable[[str, int, int], None]
"""(stage, done, of)."""


__all__ = ["Labels", "Progress", "Result", "SegmentOptions", "Segmenter", "Volume"]


@dataclass(frozen=True)
class SegmentOptions:
    """How one case is segmented; None takes the bundle's default. A model that draws no noise uses no steps, samples.

    refine_everywhere: windows over the whole brain (the paper's way) instead of where discrepancy can be.
    postprocess: remove small components, with the limits in the bundle.

        >>> SegmentOptions(steps=1, samples=2)
        SegmentOptions(steps=1, samples=2, refine_everywhere=False, postprocess=True)
    """

    steps: int | None = None
    samples: int | None = None
    refine_everywhere: bool = False
    postprocess: bool = True

    def plan(self, recipe: Recipe, seed: int = 0) -> Plan:
        """The sampling that they and the recipe's defaults amount to. Raises ConfigError, as `plan_sampling`."""
        return plan_sampling(recipe, self.steps, self.samples, seed)


class Segmenter:
    """A bundle loaded on an engine. Thread-safe: `segment` keeps no state between calls.

    It belongs to the process that opened it: open one in each worker, not before a fork.

        >>> with Segmenter.open(engine="auto", device="cpu") as segmenter:  # loads once
        ...     one = segmenter.segment(load_case("case_dir"), seed=1, options=SegmentOptions(steps=1, samples=1))
        ...     again = segmenter.segment(load_case("case_dir"), seed=1, options=SegmentOptions(steps=1, samples=1))
        >>> bool((one.labels == again.labels).all())  # the same case, bundle, seed and options
        True
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        self._take(Opened(bundle, engine, device, threads, precision))
        try:
            self._opened.loaded()
        except BaseException:
            self.close()
            raise

    def _take(self, opened: Opened) -> None:
        self._opened, self._engine, self.bundle = opened, opened.engine, opened.bundle

    @classmethod
    def open(
        cls,
        bundle: str | Path | None = None,
        engine: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
    ) -> Self:
        """Open a bundle (None: the default one) on an engine, in a precision (None: fp32).

        Raises BundleError for a bundle that is incomplete or altered or has no graphs of that precision, EngineError or
        MissingExtraError for an engine or device that cannot run here, or not in that precision.
        """
        return cls(open_bundle(bundle), engine, device, threads, precision)

    @classmethod
    def of(cls, opened: Opened) -> Self:
        """A segmenter of graphs that may still be loading: `segment` raises EngineError for one that does not load.

        It closes `opened` when it is closed.
        """
        segmenter = cls.__new__(cls)
        segmenter._take(opened)
        return segmenter

    def watch(self, seen: Callable[[str, int, float, float], None] | None) -> None:
        """Have `seen(graph, batch, begun, ended)` called after every call of a graph, with `time.perf_counter`s."""
        self._engine.watch = seen

    def close(self) -> None:
        """Give the engine's memory back."""
        self._opened.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def segment(
        self,
        case: Case,
        seed: int = 0,
        options: SegmentOptions | None = None,
        progress: Progress | None = None,
        baseline: BaselineMask | npt.NDArray[np.integer] | None = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        deadline_s: float | None = None,
    ) -> Result:
        """Segment a case.

        The result depends on the images, the bundle, the seed and the options alone: noise is keyed by seed, case
        name, window and sample. A case of another voxel size than the bundle's is resampled on the way in and out.

        baseline: what to refine instead of the bundle's own baseline, a label map of BraTS on the input's grid
        (X, Y, Z), or one that `read_baseline_mask` read.

        progress(stage, done, of) is called between windows; what it raises passes through. cancelled is asked as often,
        and deadline_s is looked at: the seconds that the call may take, from its beginning. Either way the buffers of
        the case are freed before the error is seen.

        Raises MissingContrastError for a case without a contrast where the bundle has no scores of such cases;
        CaseCancelledError or DeadlineError; ConfigError for steps, samples, seed or deadline out of range, or when a
        baseline is given to a model that refines none; LabelError when it does not fit the case; EngineError in
        another process than the one that opened this.
        """
        self._engine.check_process()
        options = options or SegmentOptions()
        plan = self.plan(options, seed)
        scores = self.bundle.manifest.scores_without(case.missing)
        given = (
            mask_from_labels(baseline, case, self.bundle.manifest.recipe.task)
            if isinstance(baseline, np.ndarray)
            else baseline
        )
        if given is not None:
            self.check_takes_baseline()
        manifest, recipe = self.bundle.manifest, self.bundle.manifest.recipe
        tell = watched(f"Case {case.name}", progress, cancelled, deadline_s)
        seconds = {"load": case.load_seconds + (0.0 if given is None else given.load_seconds)}
        started = time.perf_counter()
        with _timed(seconds, "normalise"):
            tell("normalise", 0, 1)
            held = None if given is None else recipe.whole(given.regions)
            prepared = preprocess(case.images, case.spacing_mm, recipe.preprocessing, held, case.missing)
            mask = None if given is None else given.regions[(slice(None), *prepared.box)]
        with _timed(seconds, "baseline"):
            image = prepared.at(recipe.decided_mm)
            unsupported = None
            if mask is None:
                probability = predict_baseline(
                    self._loaded, prepared.image, lambda done, of: tell("baseline", done, of)
                )
                if probability is not None:
                    probability = regrid(probability, recipe.spacing_mm, recipe.decided_mm, image)
                    if not case.missing:
                        unsupported = find_unsupported(
                            self._loaded, prepared.image, probability, lambda _, of: tell("baseline", of, of)
                        )
                self._rest()
            else:
                probability = to_spacing(mask.astype(np.float32), case.spacing_mm, recipe.decided_mm)
        with _timed(seconds, "refine"):
            found = find_discrepancy(
                self._loaded,
                image,
                probability,
                plan,
                case.name,
                everywhere=options.refine_everywhere,
                decision=recipe.decision_for(given=mask is not None),
                postprocess=options.postprocess and mask is None,
                left_out=unsupported,
                done=lambda done, of: tell("refine", done, of),
            )
            self._rest()
        with _timed(seconds, "decode"):
            tell("decode", 0, 1)
            decoded = decode(
                recipe,
                Inferred(probability, found, unsupported),
                spacing_mm=case.spacing_mm,
                shape=prepared.shape,
                given=mask,
                postprocess=options.postprocess,
            )
            around = None
            if recipe.margin is not None and given is None and not case.missing:  # it was fitted on such cases alone
                around = margins(decoded.regions, decoded.probability, recipe.margin, case.spacing_mm)
        seconds["total"] = seconds["load"] + time.perf_counter() - started
        tell("decode", 1, 1)
        measured = findings(case, decoded, found, recipe)
        measured["warnings"] += self._trust_warnings(case, prepared, decoded, measured)
        measured["warnings"] += self._precision_warnings()
        if scores is not None:
            message = (
                f"The case has no {', '.join(case.missing)}. Scores of this bundle without it: {scores.described()}."
            )
            measured["warnings"].insert(0, Warning_(code="contrast-missing", message=message))
        report = Report(
            case=case.name,
            intended_use=manifest.intended_use,
            bundle=BundleInfo(name=manifest.name, sha256=self.bundle.sha256, model=recipe.model),
            engine=self._engine_info(),
            baseline=self._baseline_info(given),
            sampling=self._sampling_info(plan, found),
            options=asdict(options),
            seconds=Seconds(**seconds),
            peak_rss_mb=peak_rss_mb(),
            missing_contrasts=list(case.missing),
            labels=_named_labels(recipe.task),
            task=recipe.task,
            margin=_margin_info(recipe, around),
            **measured,
        )
        return Result(
            source=case.source,
            box=prepared.box,
            report=report,
            task=recipe.task,
            crop_image=prepared.crop,
            crop_labels=decoded.labels,
            crop_baseline=decoded.baseline,
            crop_probability=decoded.probability,
            crop_uncertainty=decoded.uncertainty,
            crop_baseline_probability=decoded.baseline_probability,
            crop_margins=around,
        )

    @property
    def precision(self) -> str:
        """The precision that the engine computes in."""
        return self._engine.precision

    def plan(self, options: SegmentOptions, seed: int = 0) -> Plan:
        """The sampling that the options and the bundle's defaults amount to.

        Raises ConfigError for steps or samples out of range.
        """
        return options.plan(self.bundle.manifest.recipe, seed)

    def check_takes_baseline(self) -> None:
        """Raise ConfigError unless the bundle's model refines a baseline, so that another can be given to it."""
        kind = self.bundle.manifest.recipe.kind
        if not kind.refines:
            refining = ", ".join(name for name, other in MODELS.items() if other.refines)
            message = (
                f"a baseline mask was given, but the model '{kind.name}' of bundle {self.bundle.path} refines none. "
                f"Use a bundle of one of {refining}, or no mask."
            )
            raise ConfigError(message)

    @cached_property
    def _graphs(self) -> Mapping[str, Graph]:
        return self._opened.loaded()

    @property
    def _loaded(self) -> Loaded:
        return Loaded(self._engine, self._graphs, self.bundle.manifest.recipe)

    def _rest(self) -> None:
        """Give back what the graphs held for their next call, after a stage: the next stage is another graph's."""
        for graph in self._graphs.values():
            graph.rest()

    def _baseline_info(self, given: BaselineMask | None) -> BaselineInfo:
        if given is not None:
            source: Literal["array", "file"] = "array" if given.path is None else "file"
            return BaselineInfo(source=source, path=given.path, sha256=given.sha256, labels=given.convention)
        return BaselineInfo(source="bundle" if self.bundle.manifest.recipe.kind.has_baseline else "none")

    def _sampling_info(self, plan: Plan, found: Discrepancy | None) -> SamplingInfo:
        diffusion = self.bundle.manifest.recipe.diffusion
        windows = 0 if found is None else found.windows
        return SamplingInfo(
            scheduler=None if diffusion is None else diffusion.scheduler,
            steps=plan.steps,
            samples=plan.samples,
            seed=plan.seed,
            windows=windows,
            denoiser_calls=windows * plan.samples * plan.steps,
        )

    def _trust_warnings(
        self, case: Case, prepared: Preprocessed, decoded: Decoded, measured: Findings
    ) -> list[Warning_]:
        recipe = self.bundle.manifest.recipe
        found = [
            *check_result(case, prepared, recipe, decoded.regions, decoded.baseline_probability),
            *check_disagreement(measured["uncertainty"].sample_disagreement, recipe.trust),
        ]
        return [Warning_(code=warning.code, message=warning.message) for warning in found]

    def _precision_warnings(self) -> list[Warning_]:
        precision = self._engine.precision
        if precision == "fp32" or precision in self.bundle.manifest.precision_gate:
            return []
        message = f"This bundle has no record of how far results in {precision} are from those in fp32."
        return [Warning_(code="precision-not-checked", message=message)]

    def _engine_info(self) -> EngineInfo:
        engine = self._engine
        return EngineInfo(
            requested=self._opened.requested,
            used=engine.name,
            provider=engine.provider,
            device=engine.device,
            precision=engine.precision,
            version=engine.version,
            choice=engine.choice,
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def watched(
    what: str, progress: Progress | None, cancelled: Callable[[], bool] | None, deadline_s: float | None
) -> Progress:
    """A progress callback that raises when the caller wants no more of `what`, counted from now."""
    if deadline_s is not None and math.isnan(deadline_s):
        raise ConfigError("deadline_s: got nan, expected seconds, or None for no deadline")
    started = time.monotonic()

    def tell(stage: str, done: int, of: int) -> None:
        if cancelled is not None and cancelled():
            raise CaseCancelledError(f"{what} was cancelled during '{stage}', {done} of {of}.")
        if deadline_s is not None and time.monotonic() - started > deadline_s:
            message = f"{what} took longer than {deadline_s:g} s; it had come to '{stage}', {done} of {of}."
            raise DeadlineError(message)
        if progress is not None:
            progress(stage, done, of)

    return tell


def _margin_info(recipe: Recipe, found: tuple[Margin, ...] | None) -> MarginInfo | None:
    if found is None or recipe.margin is None:
        return None
    medians = zip(recipe.task.region_names, (one.median_mm for one in found), strict=True)
    return MarginInfo(
        share=recipe.margin.share,
        median_mm={name: None if median is None else round(median, 2) for name, median in medians},
    )


def _named_labels(task: Task) -> dict[str, int]:
    """Values of the label maps by name, in the order of painting."""
    names = task.label_names
    order = dict.fromkeys((*task.paint, *names))
    return {_WORDS.get(names[value], names[value]): value for value in order}
