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
``half_grads``     the gradients of the two halves of the batch, a pair        no     ``agvm``
``second_moment``  Adam's second moment before this update                     no     ``agvm`` (optional)
=================  ==========================================================  =====  ===========================
"""

from jaxtrain.optimizers.adahessian import (
    AdaHessianState,
    adahessian,
    hutchinson_hessian_diag,
    scale_by_adahessian,
    spatial_average,
)
from jaxtrain.optimizers.agvm import AgvmState, agvm, agvm_scale, module_gradient_variance, scale_by_agvm
from jaxtrain.optimizers.bo_rep import (
    BilevelBatch,
    BilevelState,
    bo_rep,
    hypergradient,
    linear_system_step,
    normalized_momentum,
)
from jaxtrain.optimizers.halpern import HalpernResult, vr_forb_resolvent, vr_halpern, vr_halpern_monotone
from jaxtrain.optimizers.matrix_recovery import (
    RecoveryResult,
    l1_matrix_recovery_loss,
    sign_rip_deviation,
    sign_spectral_init,
    subgm,
)
from jaxtrain.optimizers.optimistic_omd import OptimisticOmdState, optimistic_omd, optimistic_omd_sea
from jaxtrain.optimizers.soap import SoapState, eigenbasis_qr_update, scale_by_soap, soap

__all__ = [
    "AdaHessianState",
    "AgvmState",
    "BilevelBatch",
    "BilevelState",
    "HalpernResult",
    "OptimisticOmdState",
    "RecoveryResult",
    "SoapState",
    "adahessian",
    "agvm",
    "agvm_scale",
    "bo_rep",
    "eigenbasis_qr_update",
    "hutchinson_hessian_diag",
    "hypergradient",
    "l1_matrix_recovery_loss",
    "linear_system_step",
    "module_gradient_variance",
    "normalized_momentum",
    "optimistic_omd",
    "optimistic_omd_sea",
    "scale_by_adahessian",
    "scale_by_agvm",
    "scale_by_soap",
    "sign_rip_deviation",
    "sign_spectral_init",
    "soap",
    "spatial_average",
    "subgm",
    "vr_forb_resolvent",
    "vr_halpern",
    "vr_halpern_monotone",
]
