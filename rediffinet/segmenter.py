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
from rediffinet.discrepancy import refined_probability, wrong_probability
from rediffinet.engines import open_engine
from rediffinet.errors import CaseError, ConfigError
from rediffinet.ext import flip_and_decode
from rediffinet.geometry import Grid
from rediffinet.labels import REGIONS, labels_to_regions
from rediffinet.normalise import Box, brain_box, normalise
from rediffinet.postprocess import remove_small_components
from rediffinet.refine import Sampler, mask_of, refinement_windows, sample_discrepancy
from rediffinet.report import (
    BundleInfo,
    EngineInfo,
    InputInfo,
    PerRegionCount,
    PerRegionMl,
    Report,
    SamplingInfo,
    Seconds,
    UncertaintyInfo,
    Volumes,
    Warning_,
    peak_rss_mb,
)
from rediffinet.schedule import cumulative_alphas, linear_betas, respace
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

    def __init__(self, bundle: Bundle, engine: str = "auto", device: str = "cpu", threads: int | None = None) -> None:
        self.bundle = bundle
        self._requested = engine
        self._engine = open_engine(engine, device, threads=threads)
        try:
            self._graphs = {name: self._engine.load(bundle.graph(name)) for name in bundle.manifest.graphs}
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
    ) -> Self:
        """Open a bundle (None: the default one) on an engine.

        Raises BundleError for a bundle that is incomplete or altered, EngineError or MissingExtraError for an engine
        or device that cannot run here.
        """
        return cls(open_bundle(bundle), engine, device, threads)

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
        manifest = self.bundle.manifest
        _check_spacing(case, manifest.spacing_mm)
        samples = manifest.diffusion.samples if options.samples is None else options.samples
        if samples < 1:
            message = f"samples: got {samples}, expected 1 or more"
            raise ConfigError(message)
        steps = manifest.diffusion.steps if options.steps is None else options.steps
        schedule = respace(self._alpha_bar, steps)
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
            sampler = Sampler(self._engine, self._graphs["conditioner"], self._graphs["denoiser"], schedule)
            found = sample_discrepancy(
                sampler,
                self.bundle,
                image,
                probability,
                starts,
                key=(seed, case.name),
                samples=samples,
                done=lambda done, of: tell("refine", done, of),
            )
        with _timed(seconds, "decode"):
            tell("decode", 0, 1)
            mask = mask_of(self.bundle, probability)
            values = manifest.label_schema.values
            flip = flip_and_decode(found.delta, mask, manifest.refiner.thresholds, values)
            baseline = flip_and_decode(np.zeros_like(found.delta), mask, (1.0, 1.0, 1.0), values)
            labels, removed = self._postprocess(flip.labels, options)
            baseline_labels, _ = self._postprocess(baseline.labels, options)
            refined = refined_probability(mask, probability, found.delta, found.sampled)
            regions = labels_to_regions(labels, manifest.label_schema)
            baseline_regions = labels_to_regions(baseline_labels, manifest.label_schema)
            uncertainty = wrong_probability(regions, refined)
        seconds.total = time.perf_counter() - started
        tell("decode", 1, 1)

        voxel_ml = float(np.prod(case.spacing_mm)) / 1000.0
        report = Report(
            case=case.name,
            intended_use=manifest.intended_use,
            bundle=BundleInfo(name=manifest.name, sha256=self.bundle.sha256, model=manifest.model),
            engine=EngineInfo(
                requested=self._requested,
                used=self._engine.name,
                provider=self._engine.provider,
                device=self._engine.device,
                precision=self._engine.precision,
                version=self._engine.version,
                choice=self._engine.choice,
            ),
            sampling=SamplingInfo(
                scheduler=manifest.diffusion.scheduler,
                steps=steps,
                samples=samples,
                seed=seed,
                windows=found.windows,
                denoiser_calls=found.windows * samples * steps,
            ),
            seconds=seconds,
            peak_rss_mb=peak_rss_mb(),
            inputs=[
                InputInfo(
                    contrast=source.contrast,
                    path=source.path,
                    sha256=source.sha256,
                    shape=source.shape,
                    spacing=source.spacing_mm,
                )
                for source in case.sources
            ],
            labels=dict(
                zip(("edema", "necrosis", "enhancing"), values, strict=True),
            ),
            volumes_ml=Volumes(
                baseline=_millilitres(baseline_regions, voxel_ml),
                refined=_millilitres(regions, voxel_ml),
            ),
            flipped_voxels=_count(regions != baseline_regions),
            uncertainty=_uncertainty(regions[0], uncertainty, found.disagreement, found.sampled, voxel_ml),
            warnings=_warnings(case, regions, removed * voxel_ml),
        )
        return Result(case.grid, box, report, image, labels, baseline_labels, refined, uncertainty)

    def _baseline(self, image: Volume, done: Callable[[int, int], None]) -> Volume:
        settings = self.bundle.manifest.baseline
        graph = self._graphs["baseline"]
        fill = self.bundle.manifest.normalisation.background

        def predict(window: Volume) -> Volume:
            return np.asarray(graph(image=window)["probability"], np.float32)

        return slide(image, settings.window, settings.overlap, predict, len(REGIONS), fill, done)

    def _postprocess(self, labels: Labels, options: SegmentOptions) -> tuple[Labels, int]:
        if not options.postprocess:
            return labels, 0
        return remove_small_components(labels, **self.bundle.manifest.postprocess.model_dump())


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


def _millilitres(regions: npt.NDArray[np.bool_], voxel_ml: float) -> PerRegionMl:
    counts = _count(regions).model_dump()
    return PerRegionMl(**{name: round(count * voxel_ml, 3) for name, count in counts.items()})


def _count(regions: npt.NDArray[np.bool_]) -> PerRegionCount:
    counts = regions.reshape(len(regions), -1).sum(axis=1).tolist()
    return PerRegionCount(**dict(zip(REGIONS, counts, strict=True)))


def _uncertainty(
    tumour: npt.NDArray[np.bool_],
    uncertainty: Volume,
    disagreement: Volume,
    sampled: npt.NDArray[np.bool_],
    voxel_ml: float,
) -> UncertaintyInfo:
    return UncertaintyInfo(
        mean_in_tumour=float(uncertainty[tumour].mean()) if tumour.any() else 0.0,
        uncertain_ml=round(float((uncertainty > 0.25).sum()) * voxel_ml, 3),
        sample_disagreement=float(disagreement[sampled].mean()) if sampled.any() else 0.0,
    )


def _warnings(case: Case, regions: npt.NDArray[np.bool_], removed_ml: float) -> list[Warning_]:
    warnings = [Warning_(code=warning.code, message=warning.message) for warning in case.warnings]
    if not regions[0].any():
        warnings.append(Warning_(code="no-tumour", message="No tumour was found; check the images and their order."))
    elif not regions[2].any():
        warnings.append(Warning_(code="no-enhancing-tumour", message="No enhancing tumour was found."))
    if removed_ml >= 1.0:
        message = f"Postprocessing removed {removed_ml:.1f} ml of separate components (--no-postprocess keeps them)."
        warnings.append(Warning_(code="components-removed", message=message))
    return warnings
