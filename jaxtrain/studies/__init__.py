"""Quantities that studies of training measure."""

__all__: list[str] = []
