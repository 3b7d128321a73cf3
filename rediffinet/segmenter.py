"""Arrays in, arrays out: a bundle on an engine segments a case."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.cases import Case, to_input_grid
from rediffinet.decode import decode
from rediffinet.engines import open_engine
from rediffinet.errors import CaseError, ConfigError
from rediffinet.findings import findings
from rediffinet.geometry import Grid
from rediffinet.labels import REGIONS
from rediffinet.normalise import Box, brain_box, normalise
from rediffinet.refine import Sampler, refinement_windows, sample_discrepancy
from rediffinet.report import BundleInfo, EngineInfo, Report, SamplingInfo, Seconds, Warning_, peak_rss_mb
from rediffinet.schedule import Schedule, cumulative_alphas, linear_betas, respace
from rediffinet.windows import slide

Progress = Callable[[str, int, int], None]
"""(stage, done, of)."""

Labels = npt.NDArray[np.uint8]
Volume = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class SegmentOptions:
    """How one case is segmented; None takes the bundle's default.

    refine_everywhere: windows over the whole brain (the paper's way) instead of where discrepancy can be.
    postprocess: remove small components, with the limits in the bundle.
    """

    steps: int | None = None
    samples: int | None = None
    refine_everywhere: bool = False
    postprocess: bool = True


@dataclass(frozen=True)
class Plan:
    """How the discrepancy is sampled: the respaced schedule, samples per window, the seed of the noise."""

    schedule: Schedule
    samples: int
    seed: int

    def info(self, scheduler: str, windows: int) -> SamplingInfo:
        """The report's account of it."""
        return SamplingInfo(
            scheduler=scheduler,
            steps=len(self.schedule),
            samples=self.samples,
            seed=self.seed,
            windows=windows,
            denoiser_calls=windows * self.samples * len(self.schedule),
        )


@dataclass(frozen=True)
class Result:
    """A segmented case. The properties are on the input's own grid, (X, Y, Z); the `crop_` fields on `box`.

    `box` is in the canonical orientation (LPS).
    """

    grid: Grid
    box: Box
    report: Report
    crop_image: Volume
    crop_labels: Labels
    crop_baseline: Labels
    crop_probability: Volume
    crop_uncertainty: Volume

    @property
    def labels(self) -> Labels:
        """Refined label map, uint8 (X, Y, Z)."""
        return self._on_input_grid(self.crop_labels)

    @property
    def baseline_labels(self) -> Labels:
        """Label map of the baseline alone, uint8 (X, Y, Z), after the same postprocessing."""
        return self._on_input_grid(self.crop_baseline)

    @property
    def probabilities(self) -> Volume:
        """Probabilities of WT, TC, ET after refinement, float32 (3, X, Y, Z)."""
        return self._on_input_grid(self.crop_probability)

    @property
    def uncertainty(self) -> Volume:
        """Probability that the voxel's label is wrong, float32 (X, Y, Z)."""
        return self._on_input_grid(self.crop_uncertainty)

    def _on_input_grid(self, crop: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        full = np.zeros((*crop.shape[:-3], *self.grid.canonical_shape), crop.dtype)
        full[(..., *self.box)] = crop
        return np.ascontiguousarray(to_input_grid(full, self.grid))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
        """Write label maps, preview and report; see rediffinet.outputs.save_result for more choices."""
        from rediffinet.outputs import OutputChoice, save_result

        return save_result(self, Path(folder), OutputChoice(overwrite=overwrite))


class Segmenter:
    """A bundle loaded on an engine. Thread-safe: `segment` keeps no state between calls."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        self.bundle = bundle
        self._requested = engine
        self._engine = open_engine(engine, device, threads=threads, precision=precision or "fp32")
        try:
            self._graphs = {
                name: self._engine.load(bundle.graph(name, self._engine.precision)) for name in bundle.manifest.graphs
            }
        except BaseException:
            self._engine.close()
            raise
        diffusion = bundle.manifest.diffusion
        self._alpha_bar = cumulative_alphas(
            linear_betas(diffusion.train_steps, diffusion.beta_first, diffusion.beta_last)
        )

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

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def segment(
        self, case: Case, seed: int = 0, options: SegmentOptions | None = None, progress: Progress | None = None
    ) -> Result:
        """Segment a case.

        The result depends on the images, the bundle, the seed and the options alone: noise is keyed by seed, case
        name, window and sample. Raises CaseError when the spacing is not the bundle's, ConfigError for steps or
        samples out of range.
        """
        options = options or SegmentOptions()
        plan = self.plan(options, seed)
        manifest = self.bundle.manifest
        _check_spacing(case, manifest.spacing_mm)
        tell = progress or (lambda stage, done, of: None)
        seconds = Seconds()
        started = time.perf_counter()
        with _timed(seconds, "normalise"):
            tell("normalise", 0, 1)
            box = brain_box(case.images)
            image = normalise(case.images[(slice(None), *box)], manifest.normalisation)
        with _timed(seconds, "baseline"):
            probability = self._baseline(image, lambda done, of: tell("baseline", done, of))
        with _timed(seconds, "refine"):
            starts = refinement_windows(probability, manifest.refiner, everywhere=options.refine_everywhere)
            found = sample_discrepancy(
                Sampler(self._engine, self._graphs["conditioner"], self._graphs["denoiser"], plan.schedule),
                self.bundle,
                image,
                probability,
                starts,
                key=(seed, case.name),
                samples=plan.samples,
                done=lambda done, of: tell("refine", done, of),
            )
        with _timed(seconds, "decode"):
            tell("decode", 0, 1)
            decoded = decode(self.bundle, probability, found, postprocess=options.postprocess)
        seconds.total = time.perf_counter() - started
        tell("decode", 1, 1)
        measured = findings(case, decoded, found)
        measured["warnings"] += self._precision_warnings()
        report = Report(
            case=case.name,
            intended_use=manifest.intended_use,
            bundle=BundleInfo(name=manifest.name, sha256=self.bundle.sha256, model=manifest.model),
            engine=self._engine_info(),
            sampling=plan.info(manifest.diffusion.scheduler, found.windows),
            seconds=seconds,
            peak_rss_mb=peak_rss_mb(),
            labels=dict(zip(("edema", "necrosis", "enhancing"), manifest.label_schema.values, strict=True)),
            **measured,
        )
        return Result(
            grid=case.grid,
            box=box,
            report=report,
            crop_image=image,
            crop_labels=decoded.labels,
            crop_baseline=decoded.baseline,
            crop_probability=decoded.probability,
            crop_uncertainty=decoded.uncertainty,
        )

    def plan(self, options: SegmentOptions, seed: int = 0) -> Plan:
        """The sampling that the options and the bundle's defaults amount to.

        Raises ConfigError for steps or samples out of range.
        """
        diffusion = self.bundle.manifest.diffusion
        samples = diffusion.samples if options.samples is None else options.samples
        if samples < 1:
            message = f"samples: got {samples}, expected 1 or more"
            raise ConfigError(message)
        steps = diffusion.steps if options.steps is None else options.steps
        return Plan(respace(self._alpha_bar, steps), samples, seed)

    def _precision_warnings(self) -> list[Warning_]:
        precision = self._engine.precision
        if precision == "fp32" or precision in self.bundle.manifest.precision_gate:
            return []
        message = f"This bundle has no record of how far results in {precision} are from those in fp32."
        return [Warning_(code="precision-not-checked", message=message)]

    def _engine_info(self) -> EngineInfo:
        engine = self._engine
        return EngineInfo(
            requested=self._requested,
            used=engine.name,
            provider=engine.provider,
            device=engine.device,
            precision=engine.precision,
            version=engine.version,
            choice=engine.choice,
        )

    def _baseline(self, image: Volume, done: Callable[[int, int], None]) -> Volume:
        settings = self.bundle.manifest.baseline
        graph = self._graphs["baseline"]
        fill = self.bundle.manifest.normalisation.background

        def predict(window: Volume) -> Volume:
            return np.asarray(graph(image=window)["probability"], np.float32)

        return slide(image, settings.window, settings.overlap, predict, len(REGIONS), fill, done)


@contextmanager
def _timed(seconds: Seconds, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    setattr(seconds, stage, time.perf_counter() - started)


def _check_spacing(case: Case, expected_mm: tuple[float, float, float]) -> None:
    if any(abs(found / wanted - 1.0) > 0.25 for found, wanted in zip(case.spacing_mm, expected_mm, strict=True)):
        message = (
            f"case {case.name}: spacing is {tuple(round(s, 3) for s in case.spacing_mm)} mm, this bundle was trained "
            f"at {expected_mm} mm. Resample the four images to that spacing first."
        )
        raise CaseError(message)
