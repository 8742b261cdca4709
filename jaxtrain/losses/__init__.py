"""How wrong one example is: per example, no reduction."""

__all__: list[str] = []
