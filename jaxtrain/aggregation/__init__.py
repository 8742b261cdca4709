"""How many gradients become one."""

__all__: list[str] = []
