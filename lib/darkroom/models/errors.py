"""What can be wrong with a model that a user names."""


class ModelError(ValueError):
    """The model asked for is not there, not whole, or cannot do what is asked of it."""


def refuse_replaced(what: str, address: str, was: str, now: str) -> None:
    """ModelError where the digest of what lies at the address is another than when the run began."""
    if now != was:
        raise ModelError(f"{what} was {was[:16]} when the run began, and {now[:16]} lies at {address} now")
