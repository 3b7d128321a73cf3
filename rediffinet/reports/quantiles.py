"""The Q-Q plot of the paired differences: how far from normal they are, to judge the t-test by."""

from pathlib import Path
from typing import Any

from rediffinet.reports.comparison import POOLED, Compared, Comparison
from rediffinet.reports.comparison_tables import NAMES
from rediffinet.reports.drawing import new_figure, write_figure
from rediffinet.reports.statistics import scipy_stats

WHAT = "The Q-Q plot"


def write_quantile_plot(comparison: Comparison, path: Path) -> None:
    """Write a PNG with a panel for each metric and region, of the differences pooled over folds.

    Raises:
        ConfigError: the name does not end in .png.
        OutputError: the file cannot be written.
        MissingExtraError: SciPy or Matplotlib is not installed.
    """
    pooled = {(row.metric, row.region): row for row in comparison.rows if row.fold == POOLED}
    metrics, regions = (list(dict.fromkeys(names)) for names in zip(*pooled, strict=True))
    figure = new_figure(3.0 * len(regions), 3.0 * len(metrics), WHAT)
    panels = figure.subplots(len(metrics), len(regions), squeeze=False)
    for line, metric in zip(panels, metrics, strict=True):
        for panel, region in zip(line, regions, strict=True):
            _draw(panel, pooled[metric, region])
            panel.set_title(f"{NAMES[metric]}, {region}", fontsize=9)
    figure.suptitle(f"{comparison.b} − {comparison.a}: differences of {comparison.cases} cases", fontsize=10)
    figure.supxlabel("normal quantiles", fontsize=9)
    figure.supylabel("sorted differences", fontsize=9)
    write_figure(figure, path)


def _draw(panel: Any, row: Compared) -> None:
    differences = row.values_b - row.values_a
    panel.tick_params(labelsize=7)
    p = row.paired.shapiro_p
    if p is None:  # no spread
        panel.text(0.5, 0.5, "all differences\nare the same", ha="center", va="center", transform=panel.transAxes)
        return
    (expected, ordered), (slope, middle, _) = scipy_stats(WHAT).probplot(differences, dist="norm")
    panel.plot(expected, ordered, ".", markersize=4, color="#0072B2")
    panel.plot(expected, slope * expected + middle, "-", linewidth=1, color="#D55E00")
    panel.text(0.04, 0.96, f"Shapiro-Wilk p {p:.2g}", va="top", fontsize=7, transform=panel.transAxes)
