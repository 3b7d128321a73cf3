"""Training curves: what is read, what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from rediffinet.errors import ConfigError, ResultsError
from rediffinet.reports.curves import draw_curves, read_curves, smoothed, write_curves
from rediffinet.task import TASKS

LOG = "step,loss,learning_rate,seconds\n10,1.0,0.001,2.5\n20,0.5,0.0005,5\n"
VALIDATION = "step,region,dice,hd95_mm\n10,WT,0.5,9\n10,Avg,0.4,12\n20,WT,0.7,6\n20,Avg,0.6,8\n"


def run_folder(path: Path, log: str = LOG, validation: str | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "log.csv").write_text(log)
    if validation is not None:
        (path / "validation.csv").write_text(validation)
    return path


def test_what_is_read(tmp_path: Path) -> None:
    curves = read_curves(run_folder(tmp_path / "u0", validation=VALIDATION))
    assert curves.name == "u0"
    np.testing.assert_array_equal(curves.steps, [10, 20])
    np.testing.assert_array_equal(curves.losses, [1.0, 0.5])
    np.testing.assert_array_equal(curves.rates, [0.001, 0.0005])
    assert list(curves.validation) == ["WT", "Avg"]
    np.testing.assert_array_equal(curves.validation["WT"], [[10, 20], [0.5, 0.7], [9, 6]])


def test_what_is_drawn(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / "a", validation=VALIDATION), run_folder(tmp_path / "b")]
    figure = draw_curves([read_curves(run) for run in runs], ["a", "b"])
    assert [axes.get_title() for axes in figure.axes[1:]] == ["learning rate", "Dice", "HD95 [mm]"]
    loss, rate, dice, hd95 = figure.axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in dice.get_legend().get_texts()] == ["a, WT", "a, Avg"]
    np.testing.assert_array_equal(rate.lines[1].get_ydata(), [0.001, 0.0005])
    np.testing.assert_array_equal(hd95.lines[0].get_xydata(), [[10, 9], [20, 6]])
    assert loss.get_yscale() == "log"
    assert len(draw_curves([read_curves(runs[1])], ["b"]).axes) == 2


def test_files(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / parent / "unet") for parent in ("fold0", "fold1")]
    write_curves(runs, tmp_path / "out.png")
    first = (tmp_path / "out.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    write_curves(runs, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == first


def test_running_mean() -> None:
    np.testing.assert_allclose(smoothed(np.arange(5.0)), np.arange(5.0))
    values = np.arange(60.0)
    np.testing.assert_allclose(smoothed(values)[:4], [0, 0.5, 1, 2])
    np.testing.assert_allclose(smoothed(values)[-1], 58)


def test_regions_are_those_of_the_runs_task(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a", LOG, VALIDATION.replace("WT", "RC"))
    with pytest.raises(ResultsError, match="region is 'RC'"):
        read_curves(run)
    (run / "config.json").write_text(json.dumps({"task": TASKS["glioma-post-2024"].model_dump(mode="json")}))
    curves = read_curves(run)
    assert set(curves.validation) == {"RC", "Avg"}
    assert len(draw_curves([curves], ["a"]).axes) == 4


def test_negative_losses_have_a_linear_axis(tmp_path: Path) -> None:
    curves = read_curves(run_folder(tmp_path / "a", LOG.replace("0.5,0.0005", "-0.5,0.0005")))
    assert draw_curves([curves], ["a"]).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("log", "validation", "words"),
    [
        ("step,loss\n1,2\n", None, "lacks the column learning_rate, seconds; it has step, loss"),
        ("step,loss,learning_rate,seconds\n", None, "has no rows yet"),
        (LOG.replace("0.5,", "low,"), None, "loss is 'low'"),
        (LOG.replace("0.5,", "nan,"), None, "Expected a finite number"),
        (LOG + "30,1.0\n", None, "learning_rate is None"),
        (LOG, "step,dice\n", "validation.csv lacks the column region, hd95_mm"),
        (LOG, VALIDATION.replace("WT", "wt"), "region is 'wt'"),
        (LOG, VALIDATION.replace("0.7", ""), "dice is ''"),
    ],
)
def test_bad_logs(tmp_path: Path, log: str, validation: str | None, words: str) -> None:
    with pytest.raises(ResultsError) as caught:
        read_curves(run_folder(tmp_path / "a", log, validation))
    assert words in str(caught.value)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"Cannot read .*log.csv.*\n.*run folder of rediff train"):
        write_curves([tmp_path], tmp_path / "out.png")
    with pytest.raises(ResultsError, match="No run"):
        write_curves([], tmp_path / "out.png")
    with pytest.raises(ConfigError, match=r"\.png"):
        write_curves([run_folder(tmp_path / "a")], tmp_path / "out.svg")
