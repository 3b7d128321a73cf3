"""Arguments in messages become flags of the command that ran, and of no other."""

import pytest
import typer

from rediffinet.cli.main import app
from rediffinet.cli.segment import segment
from rediffinet.cli.words import command_from, command_of, in_flags

GROUP = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("arguments", "text", "told"),
    [
        ("segment P1", "Use `overwrite=True`.", "Use --overwrite."),
        ("segment P1", 'with `steps=500` or `device="cpu"`', "with --steps 500 or --device cpu"),
        ("segment P1", "`postprocess=False` keeps them", "--no-postprocess keeps them"),
        ("segment P1", "`save_uncertainty=True`, another `out`", "--save-uncertainty, another --out"),
        ("segment P1", "give a `source`", "give a INPUT"),
        ("segment P1", "no flag: `write_like`, `x=1`", "no flag: `write_like`, `x=1`"),
        ("train", "lower `batch=2`", "lower --set batch=2"),
        ("train", "set `refiner.residual=discrepancy`", "set --set refiner.residual=discrepancy"),
        ("train", "another `out`, then `resume=True`", "another --out, then --resume"),
        ("train", "what `allow_missing=True` is for", "what `allow_missing=True` is for"),
        ("figure curves", "`out`", "--out"),
        ("", "`overwrite=True`", "`overwrite=True`"),
        ("no-such-command", "`overwrite=True`", "`overwrite=True`"),
        ("--help", "`overwrite=True`", "`overwrite=True`"),
    ],
)
def test_arguments_become_flags(arguments: str, text: str, told: str) -> None:
    assert in_flags(text, command_of(arguments.split(), GROUP)) == told


def test_a_command_tells_in_its_own_flags_while_it_runs() -> None:
    assert in_flags("`postprocess=False` or `steps=9`", command_from(segment)) == "--no-postprocess or --steps 9"
