"""What can be wrong with a model that a user names."""


class ModelError(ValueError):
    """The model asked for is not there, not whole, or cannot do what is asked of it."""
