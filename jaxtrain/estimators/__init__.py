"""What can be measured from samples."""

__all__: list[str] = []
