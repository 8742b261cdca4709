"""What can be measured on samples: distances, information, traces."""

from jaxtrain.estimators.pac_sliced_wasserstein import VmfSlices, optimize_slices_vmf, pac_sw_lambda, pac_sw_objective
from jaxtrain.estimators.sliced_wasserstein import (
    lcv_sliced_wasserstein,
    sliced_wasserstein,
    sphere_directions,
    ucv_sliced_wasserstein,
    wasserstein_1d,
)
from jaxtrain.estimators.von_mises_fisher import sample_vmf, vmf_kl_to_uniform

__all__ = [
    "VmfSlices",
    "lcv_sliced_wasserstein",
    "optimize_slices_vmf",
    "pac_sw_lambda",
    "pac_sw_objective",
    "sample_vmf",
    "sliced_wasserstein",
    "sphere_directions",
    "ucv_sliced_wasserstein",
    "vmf_kl_to_uniform",
    "wasserstein_1d",
]
