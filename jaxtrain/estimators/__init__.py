"""What can be measured on samples: distances, information, traces."""

from jaxtrain.estimators.sliced_wasserstein import (
    lcv_sliced_wasserstein,
    sliced_wasserstein,
    sphere_directions,
    ucv_sliced_wasserstein,
    wasserstein_1d,
)

__all__ = [
    "lcv_sliced_wasserstein",
    "sliced_wasserstein",
    "sphere_directions",
    "ucv_sliced_wasserstein",
    "wasserstein_1d",
]
