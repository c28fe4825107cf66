"""Errors that a user can act on; each message says what was wrong and what to do.

The command line prints them as one line, the service turns them into problem details.
"""


class LLMEmbError(Exception):
    """Base of every error caused by a user's input, files or machine rather than by a bug."""


class ItemError(LLMEmbError):
    """An item's attributes cannot be used.

    Attributes:
        path: where inside the attributes, for example ``("cast", 3, "name")``.
        reason: what is wrong there, without the path.
    """

    def __init__(self, reason: str, path: tuple[str | int, ...] = ()) -> None:
        self.reason = reason
        self.path = path
        where = ".".join(str(part) for part in path)
        super().__init__(f"{where}: {reason}" if where else reason)


class DataError(LLMEmbError):
    """Raw or prepared data cannot be read; the message names the file and, where known, the line."""


class SettingsError(LLMEmbError):
    """A preset, a ``--set`` override or a command-line value is not valid."""


class ModelError(LLMEmbError):
    """A base model is missing, of an unknown kind, or not the one a bundle was trained with."""


class BundleError(LLMEmbError):
    """A bundle is incomplete, changed, or of another schema; the message names the file."""
