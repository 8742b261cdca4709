"""The contract kit: the laws every method must keep, for ours, optax's and yours."""

__all__: list[str] = []
