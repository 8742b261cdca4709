"""Where the parameters start."""

__all__: list[str] = []
