"""Errors that a user can fix. Each message says what was found, what was expected and what to do."""


class RediffError(Exception):
    """Base of all errors the user can fix; the command line prints the message alone and exits with 2."""


class CaseError(RediffError):
    """The images of a case are missing, ambiguous, unreadable or do not fit together."""


class LabelError(RediffError):
    """A label map or mask has values, a shape or a grid that was not expected."""


class OutputError(RediffError):
    """The output cannot be written, or exists already."""


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


class MissingExtraError(RediffError):
    """An optional dependency is absent; the message holds the pip command that installs it."""

    def __init__(self, what: str, module: str, extra: str) -> None:
        self.install = f"pip install 'rediffinet[{extra}]'"
        super().__init__(
            f"{what} needs the Python module '{module}', which is not installed here.\nInstall it with:  {self.install}"
        )


class CaseStoppedError(RediffError):
    """A case was not finished because its caller said so; nothing of it was written."""


class CaseCancelledError(CaseStoppedError):
    """The caller's `cancelled` said yes."""


class DeadlineError(CaseStoppedError):
    """A case took longer than the caller's `deadline_s`."""
