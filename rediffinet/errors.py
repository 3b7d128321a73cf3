"""Errors that a user can fix. Each says what was found, what was expected and what to do.

What to do is said in the words of Python: an argument stands in backticks, as in `overwrite=True` or `out`. Only the
command line turns these into its flags (`rediffinet.cli.words`).
"""

from typing import Any


class RediffError(Exception):
    """Base of all errors the user can fix; the command line prints the message alone and exits with 2.

    found: what is wrong. expected: what would be right, a phrase. hint: what to do, sentences. The text of the error is
    all three; a text given as one is taken apart at a line that begins with "Expected". It can be pickled, and
    `as_dict` is what a service sends.

        >>> error = CaseError("X has 2 axes.", expected="one 3-D image", hint="Split it.")
        >>> print(error)
        X has 2 axes.
        Expected one 3-D image. Split it.
        >>> error.as_dict()["hint"]
        'Split it.'
    """

    def __init__(self, found: str, *, expected: str = "", hint: str = "") -> None:
        more = " ".join(part for part in (f"Expected {expected}." if expected else "", hint) if part)
        super().__init__(f"{found}\n{more}" if more else found)
        if not more:
            found, _, rest = found.partition("\nExpected ")
            expected, _, hint = rest.replace(".\n", ". ", 1).partition(". ")
        self.found, self.expected, self.hint = found, expected.removesuffix("."), hint

    def __reduce__(self) -> tuple[Any, ...]:
        """By state, not by arguments: a subclass may take others."""
        return _remade, (type(self), self.args, self.__dict__)

    @property
    def message(self) -> str:
        """The whole text."""
        return str(self)

    def as_dict(self) -> dict[str, str]:
        """JSON-ready: the type's name, the message, and its parts."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
        }


def _remade(kind: type[RediffError], args: tuple[Any, ...], state: dict[str, Any]) -> RediffError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class CaseError(RediffError):
    """The images of a case are missing, ambiguous, unreadable or do not fit together."""


class MissingContrastError(CaseError):
    """A case lacks a contrast, and the bundle has no scores of how well it does without it."""


class LabelError(RediffError):
    """A label map or mask has values, a shape or a grid that was not expected."""


class OutputError(RediffError):
    """The output cannot be written, or exists already."""


class TooManyError(RediffError):
    """There are as many of something as there may be."""


class ChangedError(RediffError):
    """What something was made from is not there any more as it was then."""


class BundleError(RediffError):
    """A bundle is incomplete, altered, or of a schema this version does not read."""


class EngineError(RediffError):
    """An engine or device that was asked for cannot run, or got a tensor that it does not take."""


class ConfigError(RediffError):
    """A setting is unknown or has a value outside its range."""


class TrainingError(RediffError):
    """Training cannot start or go on: bad data set, checkpoint of another run, diverged loss."""


class ExportError(RediffError):
    """An exported graph is outside its tolerance, or the checkpoint cannot be exported."""


class ResultsError(RediffError):
    """A table of results or a log of a run is missing, damaged or incomplete, or two cannot be compared."""


class ArchiveError(RediffError):
    """An image archive (DICOMweb) does not answer, refuses, or answers with what cannot be read."""


class MissingExtraError(RediffError):
    """An optional dependency is absent; the message holds the pip command that installs it."""

    def __init__(self, what: str, module: str, extra: str) -> None:
        self.install = f"pip install 'rediffinet[{extra}]'"
        found = f"{what} needs the Python module '{module}', which is not installed here."
        super().__init__(found, hint=f"Install it with:  {self.install}")


class CaseStoppedError(RediffError):
    """A case was not finished because its caller said so; nothing of it was written."""


class CaseCancelledError(CaseStoppedError):
    """The caller's `cancelled` said yes."""


class DeadlineError(CaseStoppedError):
    """A case took longer than the caller's `deadline_s`."""
