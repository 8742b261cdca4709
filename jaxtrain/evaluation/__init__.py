"""How results of many agents, tasks and seeds are compared."""

__all__: list[str] = []
