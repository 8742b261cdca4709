"""The workloads that ship with the package. Each module has a ``Config`` and ``build(config) -> Experiment``."""

NAMES = ("digits", "bytes")
