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

from jaxtrain.optimizers._blocks import block_and_merge_dims
from jaxtrain.optimizers.adahessian import (
    AdaHessianState,
    adahessian,
    hutchinson_hessian_diag,
    scale_by_adahessian,
    spatial_average,
)
from jaxtrain.optimizers.freeze_embed import (
    embed_gradient_ratio,
    freeze_labels,
    gradual_unfreeze_schedule,
    layerwise_grad_norms,
    optimizer_bytes_per_param,
    sgd_freeze_embed,
)
from jaxtrain.optimizers.matrix_roots import matrix_inverse_root
from jaxtrain.optimizers.norms import dual_map, dual_norm, newton_schulz_orthogonalize, rms_to_rms_scale
from jaxtrain.optimizers.orthograd import nlm_cosine, orthogonalize_gradients
from jaxtrain.optimizers.shampoo import ShampooState, distributed_shampoo, scale_by_distributed_shampoo
from jaxtrain.optimizers.soap import SoapState, eigenbasis_qr_update, scale_by_soap, soap
from jaxtrain.optimizers.steepest_descent import (
    SteepestDescentState,
    modular_norm,
    norms_by_role,
    scale_by_steepest_descent,
    steepest_descent,
)
from jaxtrain.optimizers.subset_norm import SubsetNormState, adam_sn, closest_smaller_divisor, scale_by_subset_norm
from jaxtrain.optimizers.subspace_momentum import (
    SnsmState,
    SubspaceMomentumState,
    scale_by_snsm,
    scale_by_subspace_momentum,
    snsm,
)

__all__ = [
    "AdaHessianState",
    "ShampooState",
    "SnsmState",
    "SoapState",
    "SteepestDescentState",
    "SubsetNormState",
    "SubspaceMomentumState",
    "adahessian",
    "adam_sn",
    "block_and_merge_dims",
    "closest_smaller_divisor",
    "distributed_shampoo",
    "dual_map",
    "dual_norm",
    "eigenbasis_qr_update",
    "embed_gradient_ratio",
    "freeze_labels",
    "gradual_unfreeze_schedule",
    "hutchinson_hessian_diag",
    "layerwise_grad_norms",
    "matrix_inverse_root",
    "modular_norm",
    "newton_schulz_orthogonalize",
    "nlm_cosine",
    "norms_by_role",
    "optimizer_bytes_per_param",
    "orthogonalize_gradients",
    "rms_to_rms_scale",
    "scale_by_adahessian",
    "scale_by_distributed_shampoo",
    "scale_by_snsm",
    "scale_by_soap",
    "scale_by_steepest_descent",
    "scale_by_subset_norm",
    "scale_by_subspace_momentum",
    "sgd_freeze_embed",
    "snsm",
    "soap",
    "spatial_average",
    "steepest_descent",
]
