"""The one error this package raises for a request that cannot be met."""


class ModelError(ValueError):
    """A model that cannot be had, or does not keep the interface; the message is one line for a person."""
