"""How a gradient becomes an update: optax GradientTransformations.

What an update may ask for besides gradients and parameters, as optax extra arguments. ``jaxtrain.training.make_step``
gives what stands under "given"; the rest comes from its ``extra_args=``.

=================  ==========================================================  =====  =================================
extra argument     what it is                                                  given  asked for by
=================  ==========================================================  =====  =================================
``value``          the loss at the parameters                                  yes    optax's ``polyak_sgd``,
                                                                                      ``alr_mag``, ``psps``, …
``value_fn``       ``params -> loss`` on the same batch, with the same key     yes    optax's line searches, ``smb``,
                                                                                      ``zeroth_order_updates``
``grad_fn``        ``params -> gradients`` on the same batch, same key         yes    ``adahessian``, ``psps``, ``smb``,
                                                                                      ``svrg``, ``page``, ``storm``
``key``            a typed key of this step's own                              yes    ``adahessian``, ``psps``, ``o2nc``,
                                                                                      ``page``, ``zeroth_order_updates``
``full_grad_fn``   ``params -> gradients`` over all data                       no     ``svrg``, ``page``
``indices``        the numbers of the batch's examples in the data             no     ``saga``
``mean_residual``  the mean of 1 / (1 + exp(margin)) over the batch            no     ``scale_by_mean_residual``
``hessian_diag``   the diagonal of the Hessian, a tree like the parameters     no     ``adahessian``, ``psps`` (instead
                                                                                      of ``grad_fn`` and ``key``)
=================  ==========================================================  =====  =================================
``hessian_diag``   the diagonal of the Hessian, a tree like the parameters     no     ``adahessian`` (instead of
                                                                                      ``grad_fn`` and ``key``)
``half_grads``     the gradients of the two halves of the batch, a pair        no     ``agvm``
``second_moment``  Adam's second moment before this update                     no     ``agvm`` (optional)
=================  ==========================================================  =====  ===========================
"""

from jaxtrain.optimizers.adagrad_norm import AdaGradNormState, adagrad_norm, scale_by_adagrad_norm
from jaxtrain.optimizers._blocks import block_and_merge_dims
from jaxtrain.optimizers.adahessian import (
    AdaHessianState,
    adahessian,
    hutchinson_hessian_diag,
    scale_by_adahessian,
    spatial_average,
)
from jaxtrain.optimizers.clip_radagradd import (
    ClippedAdaGradState,
    ClippedAdamState,
    clip_adagrad,
    clip_adam,
    clip_radagradd,
    scale_by_clipped_adagrad,
    scale_by_clipped_adam,
)
from jaxtrain.optimizers.generalized_polyak_momentum import (
    AlrHeavyBallState,
    AlrMagState,
    alr_heavy_ball,
    alr_mag,
    polyak_step_size,
)
from jaxtrain.optimizers.median_gradient_clipping import (
    MedianMomentumState,
    scale_by_median_momentum,
    spp_median_update,
)
from jaxtrain.optimizers.normalized_lr_gd import (
    Margin,
    batch_perceptron_step,
    margin,
    normalized_logistic_gd_step,
    perceptron,
    scale_by_mean_residual,
)
from jaxtrain.optimizers.online_to_nonconvex import (
    Goldstein,
    O2ncState,
    goldstein_stationarity,
    o2nc,
    o2nc_radius,
    o2nc_step,
)
from jaxtrain.optimizers.psps import (
    PspsState,
    psps,
    scale_by_preconditioned_polyak,
)
from jaxtrain.optimizers.smb_model_building import (
    SmbState,
    model_building_step,
    smb,
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
from jaxtrain.optimizers.spl_plus_cvar import (
    SplPlusState,
    cvar_objective,
    cvar_prox_linear_step,
    cvar_subgradient_step,
    empirical_cvar,
    empirical_var,
    spl_plus,
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
    "AdaGradNormState",
    "AdaHessianState",
    "AlrHeavyBallState",
    "AlrMagState",
    "ClippedAdaGradState",
    "ClippedAdamState",
    "Goldstein",
    "Margin",
    "MedianMomentumState",
    "O2ncState",
    "PspsState",
    "SmbState",
    "AgvmState",
    "BilevelBatch",
    "BilevelState",
    "HalpernResult",
    "OptimisticOmdState",
    "RecoveryResult",
    "SoapState",
    "SplPlusState",
    "adagrad_norm",
    "adahessian",
    "alr_heavy_ball",
    "alr_mag",
    "batch_perceptron_step",
    "clip_adagrad",
    "clip_adam",
    "clip_radagradd",
    "cvar_objective",
    "cvar_prox_linear_step",
    "cvar_subgradient_step",
    "agvm",
    "agvm_scale",
    "bo_rep",
    "eigenbasis_qr_update",
    "empirical_cvar",
    "empirical_var",
    "goldstein_stationarity",
    "hutchinson_hessian_diag",
    "margin",
    "model_building_step",
    "normalized_logistic_gd_step",
    "o2nc",
    "o2nc_radius",
    "o2nc_step",
    "perceptron",
    "polyak_step_size",
    "psps",
    "scale_by_adagrad_norm",
    "scale_by_adahessian",
    "scale_by_clipped_adagrad",
    "scale_by_clipped_adam",
    "scale_by_mean_residual",
    "scale_by_median_momentum",
    "scale_by_preconditioned_polyak",
    "scale_by_soap",
    "smb",
    "soap",
    "spatial_average",
    "spl_plus",
    "spp_median_update",
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
