"""How a gradient becomes an update: optax GradientTransformations.

What an update may ask for besides gradients and parameters, as optax extra arguments. ``jaxtrain.training.make_step``
gives what stands under "given"; the rest comes from its ``extra_args=``.

====================  ==========================================================  =====  ===========================
extra argument        what it is                                                  given  asked for by
====================  ==========================================================  =====  ===========================
``value``             the loss at the parameters                                  yes    optax's ``polyak_sgd``, …
``value_fn``          ``params -> loss`` on the same batch, with the same key     yes    optax's line searches,
                                                                                         ``zeroth_order_updates``
``grad_fn``           ``params -> gradients`` on the same batch, same key         yes    ``adahessian``, ``svrg``,
                                                                                         ``page``, ``storm``,
                                                                                         ``mars`` (exact)
``key``               a typed key of this step's own                              yes    ``adahessian``, ``page``,
                                                                                         ``zeroth_order_updates``
``full_grad_fn``      ``params -> gradients`` over all data                       no     ``svrg``, ``page``
``indices``           the numbers of the batch's examples in the data             no     ``saga``
``prev_point_grads``  the gradients of this batch at the parameters before the    no     ``mars`` (exact, instead of
                      last update, a tree like the parameters                            ``grad_fn``)
``hessian_diag``      the diagonal of the Hessian, a tree like the parameters     no     ``adahessian`` (instead of
                                                                                         ``grad_fn`` and ``key``)
====================  ==========================================================  =====  ===========================
"""

from jaxtrain.optimizers.adahessian import (
    AdaHessianState,
    adahessian,
    hutchinson_hessian_diag,
    scale_by_adahessian,
    spatial_average,
)
from jaxtrain.optimizers.adamp import (
    AdamPState,
    SGDPState,
    adamp,
    effective_step_size,
    project_scale_invariant,
    scale_by_projection,
    sgdp,
)
from jaxtrain.optimizers.decays import (
    StableDecayState,
    add_norm_loss_decay,
    add_stable_weight_decay,
)
from jaxtrain.optimizers.diffgrad import (
    DiffGradState,
    diffgrad,
    scale_by_diffgrad,
)
from jaxtrain.optimizers.gradient_transforms import (
    adaptive_gradient_clip,
    centralize_gradients,
    normalize_gradients_std,
)
from jaxtrain.optimizers.grams import (
    GramsState,
    cautious,
    grams,
    scale_by_cautious,
    scale_by_grad_sign,
    scale_by_grams,
)
from jaxtrain.optimizers.gravity import (
    GravityState,
    gravity,
    scale_by_gravity,
)
from jaxtrain.optimizers.low_precision import (
    LowPrecisionState,
    stochastic_round,
    with_moment_dtype,
)
from jaxtrain.optimizers.mars import (
    MarsState,
    mars,
    newton_schulz,
    scale_by_mars,
)
from jaxtrain.optimizers.positive_negative_momentum import (
    PositiveNegativeMomentumState,
    scale_by_positive_negative_momentum,
)
from jaxtrain.optimizers.ranger21 import (
    SlowParamsState,
    lookahead,
    ranger21,
    ranger21_schedule,
)
from jaxtrain.optimizers.sgd_sai import (
    GsnrState,
    gradient_snr,
    scale_by_gsnr_at_init,
    sgd_sai,
)
from jaxtrain.optimizers.soap import SoapState, eigenbasis_qr_update, scale_by_soap, soap

__all__ = [
    "AdaHessianState",
    "AdamPState",
    "DiffGradState",
    "GramsState",
    "GravityState",
    "GsnrState",
    "LowPrecisionState",
    "MarsState",
    "PositiveNegativeMomentumState",
    "SGDPState",
    "SlowParamsState",
    "SoapState",
    "StableDecayState",
    "adahessian",
    "adamp",
    "adaptive_gradient_clip",
    "add_norm_loss_decay",
    "add_stable_weight_decay",
    "cautious",
    "centralize_gradients",
    "diffgrad",
    "effective_step_size",
    "eigenbasis_qr_update",
    "gradient_snr",
    "grams",
    "gravity",
    "hutchinson_hessian_diag",
    "lookahead",
    "mars",
    "newton_schulz",
    "normalize_gradients_std",
    "project_scale_invariant",
    "ranger21",
    "ranger21_schedule",
    "scale_by_adahessian",
    "scale_by_cautious",
    "scale_by_diffgrad",
    "scale_by_grad_sign",
    "scale_by_grams",
    "scale_by_gravity",
    "scale_by_gsnr_at_init",
    "scale_by_mars",
    "scale_by_positive_negative_momentum",
    "scale_by_projection",
    "scale_by_soap",
    "sgd_sai",
    "sgdp",
    "soap",
    "spatial_average",
    "stochastic_round",
    "with_moment_dtype",
]
