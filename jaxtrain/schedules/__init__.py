"""What moves over time: learning rates and their like."""

__all__: list[str] = []
