"""What can be wrong with a request, or with the moment it comes at; :mod:`service.problems` answers them."""

from llmemb.errors import LLMEmbError


class InvalidFieldError(LLMEmbError):
    """A field of the request cannot be used.

    Attributes:
        field: the path to it, for example ``items.0.attributes.title``.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class OverloadedError(LLMEmbError):
    """More work is waiting than the settings allow; ``retry_after`` is in whole seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class UnavailableError(LLMEmbError):
    """The service cannot answer now and will soon; ``retry_after`` is in whole seconds."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class IndexAwayError(UnavailableError):
    """What searches the items does not answer now."""


class UnknownAttributeError(LLMEmbError):
    """No item of the catalogue has an attribute of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no item has an attribute {name!r}")


class RefusedError(LLMEmbError):
    """What an operator asked for is not done; the service goes on as before."""
