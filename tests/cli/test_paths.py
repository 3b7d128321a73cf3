"""Output paths of every command: a place that cannot be written is said before the work, and nothing is made."""

from pathlib import Path
from typing import Any

import pytest

# command, the module whose work must not begin, the option of the output, whether it names a file
COMMANDS = [
    (("compare", "{file}", "{file}", "-o", "{out}.csv"), "rediffinet.reports.comparison.read_pair", True),
    (("compare", "{file}", "{file}", "--qq", "{out}.png"), "rediffinet.reports.comparison.read_pair", True),
    (("figure", "curves", "{folder}", "-o", "{out}.png"), "rediffinet.reports.curves.write_curves", True),
    (
        ("figure", "overlay", "{folder}", "{file}", "{file}", "-o", "{out}.png"),
        "rediffinet.reports.overlay.write_overlay",
        True,
    ),
    (("figure", "reliability", "{file}", "-o", "{out}.png"), "rediffinet.reports.reliability.write_reliability", True),
    (("phantom", "{out}"), "rediffinet.phantom.write_phantoms", False),
    (("tables", "{folder}", "-o", "{out}"), "rediffinet.scoring.results.read_results_in", False),
    (("train", "--model", "unet", "--data", "{folder}", "--out", "{out}"), "rediffinet.training.train.train", False),
    (("crossval", "--data", "{folder}", "--out", "{out}"), "rediffinet.training.crossval.crossvalidate", False),
    (("average", "{folder}", "{folder}", "--out", "{out}"), "rediffinet.training.average.average_runs", False),
    (("export", "{folder}", "--out", "{out}"), "rediffinet.export.bundle.export_bundle", False),
    (("segment", "{case}", "-o", "{out}", "--bundle", "{bundle}"), "rediffinet.clinic.case.load_case", False),
]


@pytest.mark.parametrize(("command", "work", "names_a_file"), COMMANDS)
@pytest.mark.parametrize("place", ["in a file", "in an absent folder", "a name that is too long", "is the other kind"])
def test_where_nothing_can_be_written(
    rediff: Any,
    toy_bundle: Any,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    work: str,
    names_a_file: bool,
    place: str,
) -> None:
    module, _, function = work.rpartition(".")
    monkeypatch.setattr(f"{module}.{function}", lambda *_, **__: pytest.fail("worked"))
    file = tmp_path / "file"
    file.write_text("x")
    out = {
        "in a file": file / "out",
        "in an absent folder": tmp_path / "absent" / "out",
        "a name that is too long": tmp_path / ("o" * 300),
        "is the other kind": tmp_path / "kind",
    }[place]
    if place == "in an absent folder" and not names_a_file:
        pytest.skip("folders are made")
    if place == "is the other kind":
        ending = next((Path(part).suffix for part in command if part.startswith("{out}.")), "")
        made = out.with_name(out.name + ending)
        made.mkdir() if names_a_file else made.write_text("x")
    before = sorted(tmp_path.rglob("*"))
    given = {"file": file, "folder": tmp_path, "out": out, "case": toy_folder, "bundle": toy_bundle.path}
    done = rediff(*(part.format(**given) for part in command))
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before
