"""How many iterates or models become one model."""

__all__: list[str] = []
