"""Which examples, how often, with what weight."""

__all__: list[str] = []
