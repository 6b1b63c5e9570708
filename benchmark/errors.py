"""A request that cannot be met, told in one line before any work; the command line exits with 2."""


class RequestError(ValueError):
    """The message names the field, the value, what is accepted and the remedy."""
