"""Where the parameters start, as in ``jax.nn.initializers``: ``(key, shape, dtype) -> Array``."""

from jaxtrain.initializers.ibp import (
    ibp_bounds,
    ibp_conv,
    ibp_dense,
    ibp_init,
    ibp_margin_lower_bound,
    ibp_relu,
    ibp_relu_balance_reg,
    ibp_robust_loss,
    ibp_tightness_reg,
    smoothed_eps_schedule,
    verified_error,
)

__all__ = [
    "ibp_bounds",
    "ibp_conv",
    "ibp_dense",
    "ibp_init",
    "ibp_margin_lower_bound",
    "ibp_relu",
    "ibp_relu_balance_reg",
    "ibp_robust_loss",
    "ibp_tightness_reg",
    "smoothed_eps_schedule",
    "verified_error",
]
