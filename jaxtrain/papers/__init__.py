"""The registry: every paper of the catalogue and what the library has of it."""

__all__: list[str] = []
