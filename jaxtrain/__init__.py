"""Training methods for JAX, each proved against an independent oracle and its paper's claim measured.

The package is a row of stages; each is imported when it is first touched, so ``import jaxtrain`` costs
nothing that is not used::

    import jaxtrain as jt

    tx = optax.chain(jt.optimizers.soap(3e-3), jt.averaging.swa(start_step=500, period=50))
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

__version__ = "0.1.0"

_STAGES = (
    "aggregation",
    "averaging",
    "core",
    "estimators",
    "evaluation",
    "gradients",
    "initializers",
    "losses",
    "models",
    "optimizers",
    "papers",
    "sampling",
    "schedules",
    "studies",
    "testing",
    "training",
)

if _TYPE_CHECKING:
    from jaxtrain import (
        aggregation,
        averaging,
        core,
        estimators,
        evaluation,
        gradients,
        initializers,
        losses,
        models,
        optimizers,
        papers,
        sampling,
        schedules,
        studies,
        testing,
        training,
    )

__all__ = [*_STAGES, "__version__"]


def __getattr__(name: str):
    if name in _STAGES:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
