"""How a gradient becomes an update: optax GradientTransformations.

What an update may ask for besides gradients and parameters, as optax extra arguments. ``jaxtrain.training.make_step``
gives what stands under "given"; the rest comes from its ``extra_args=``.

=================  ==========================================================  =====  ===========================
extra argument     what it is                                                  given  asked for by
=================  ==========================================================  =====  ===========================
``value``          the loss at the parameters                                  yes    optax's ``polyak_sgd``, …
``value_fn``       ``params -> loss`` on the same batch, with the same key     yes    optax's line searches,
                                                                                      ``zeroth_order_updates``
``grad_fn``        ``params -> gradients`` on the same batch, same key         yes    ``adahessian``, ``svrg``,
                                                                                      ``page``, ``storm``
``key``            a typed key of this step's own                              yes    ``adahessian``, ``page``,
                                                                                      ``zeroth_order_updates``
``full_grad_fn``   ``params -> gradients`` over all data                       no     ``svrg``, ``page``
``indices``        the numbers of the batch's examples in the data             no     ``saga``
``hessian_diag``   the diagonal of the Hessian, a tree like the parameters     no     ``adahessian`` (instead of
                                                                                      ``grad_fn`` and ``key``)
=================  ==========================================================  =====  ===========================
"""

from jaxtrain.optimizers.adabelief import AdaBeliefState, adabelief, scale_by_adabelief
from jaxtrain.optimizers.adabound import AdaBoundState, adabound, adabound_bounds, amsbound, scale_by_adabound
from jaxtrain.optimizers.adafactor import adafactor, relative_step_size
from jaxtrain.optimizers.adahessian import (
    AdaHessianState,
    adahessian,
    hutchinson_hessian_diag,
    scale_by_adahessian,
    spatial_average,
)
from jaxtrain.optimizers.adan import AdanState, adan, scale_by_adan
from jaxtrain.optimizers.ademamix import ademamix, ademamix_alpha_schedule, ademamix_b3_schedule
from jaxtrain.optimizers.amsgrad import AdamNCState, adam_nc, amsgrad, scale_by_adam_nc, scale_by_amsgrad
from jaxtrain.optimizers.decoupled_decay import adam_l2, adamw_original, normalized_weight_decay, sgdw
from jaxtrain.optimizers.soap import SoapState, eigenbasis_qr_update, scale_by_soap, soap

__all__ = [
    "AdaBeliefState",
    "AdaBoundState",
    "AdaHessianState",
    "AdamNCState",
    "AdanState",
    "SoapState",
    "adabelief",
    "adabound",
    "adabound_bounds",
    "adafactor",
    "adahessian",
    "adam_l2",
    "adam_nc",
    "adamw_original",
    "adan",
    "ademamix",
    "ademamix_alpha_schedule",
    "ademamix_b3_schedule",
    "amsbound",
    "amsgrad",
    "eigenbasis_qr_update",
    "hutchinson_hessian_diag",
    "normalized_weight_decay",
    "relative_step_size",
    "scale_by_adabelief",
    "scale_by_adabound",
    "scale_by_adahessian",
    "scale_by_adam_nc",
    "scale_by_adan",
    "scale_by_amsgrad",
    "scale_by_soap",
    "sgdw",
    "soap",
    "spatial_average",
]
