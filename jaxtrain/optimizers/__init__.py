"""How a gradient becomes an update: optax GradientTransformations.

What an update may ask for besides gradients and parameters, as optax extra arguments. ``jaxtrain.training.make_step``
gives what stands under "given"; the rest comes from its ``extra_args=``.

====================  ==========================================================  =====  =================================
extra argument        what it is                                                  given  asked for by
====================  ==========================================================  =====  =================================
``value``             the loss at the parameters                                  yes    optax's ``polyak_sgd``,
                                                                                         ``alr_mag``, ``psps``, …
``value_fn``          ``params -> loss`` on the same batch, with the same key     yes    optax's line searches, ``smb``,
                                                                                         ``zeroth_order_updates``
``grad_fn``           ``params -> gradients`` on the same batch, same key         yes    ``adahessian``, ``psps``, ``smb``,
                                                                                         exact ``mars``, ``svrg``,
                                                                                         ``page``, ``storm``
``key``               a typed key of this step's own                              yes    ``adahessian``, ``psps``, ``o2nc``,
                                                                                         ``page``, ``zeroth_order_updates``
``full_grad_fn``      ``params -> gradients`` over all data                       no     ``svrg``, ``page``
``indices``           the numbers of the batch's examples in the data             no     ``saga``
``mean_residual``     the mean of 1 / (1 + exp(margin)) over the batch            no     ``scale_by_mean_residual``
``prev_point_grads``  the gradients of this batch at the parameters before the    no     exact ``mars`` (instead of
                      last update, a tree like the parameters                            ``grad_fn``)
``hessian_diag``      the diagonal of the Hessian, a tree like the parameters     no     ``adahessian``, ``psps`` (instead
                                                                                         of ``grad_fn`` and ``key``)
``half_grads``        the gradients of the two halves of the batch, a pair        no     ``agvm``
``second_moment``     Adam's second moment before this update                     no     ``agvm`` (optional)
====================  ==========================================================  =====  =================================
"""

from jaxtrain.optimizers._blocks import block_and_merge_dims
from jaxtrain.optimizers.adabelief import AdaBeliefState, adabelief, scale_by_adabelief
from jaxtrain.optimizers.adabound import AdaBoundState, adabound, adabound_bounds, amsbound, scale_by_adabound
from jaxtrain.optimizers.adafactor import adafactor, relative_step_size
from jaxtrain.optimizers.adagrad_norm import AdaGradNormState, adagrad_norm, scale_by_adagrad_norm
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
from jaxtrain.optimizers.adan import AdanState, adan, scale_by_adan
from jaxtrain.optimizers.ademamix import ademamix, ademamix_alpha_schedule, ademamix_b3_schedule
from jaxtrain.optimizers.agvm import AgvmState, agvm, agvm_scale, module_gradient_variance, scale_by_agvm
from jaxtrain.optimizers.amsgrad import AdamNCState, adam_nc, amsgrad, scale_by_adam_nc, scale_by_amsgrad
from jaxtrain.optimizers.bo_rep import (
    BilevelBatch,
    BilevelState,
    NormalizedMomentumState,
    bo_rep,
    hypergradient,
    linear_system_step,
    normalized_momentum,
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
from jaxtrain.optimizers.decays import StableDecayState, add_norm_loss_decay, add_stable_weight_decay
from jaxtrain.optimizers.decoupled_decay import adam_l2, adamw_original, normalized_weight_decay, sgdw
from jaxtrain.optimizers.diffgrad import DiffGradState, diffgrad, scale_by_diffgrad
from jaxtrain.optimizers.freeze_embed import (
    embed_gradient_ratio,
    freeze_labels,
    gradual_unfreeze_schedule,
    layerwise_grad_norms,
    optimizer_bytes_per_param,
    sgd_freeze_embed,
)
from jaxtrain.optimizers.generalized_polyak_momentum import (
    AlrHeavyBallState,
    AlrMagState,
    alr_heavy_ball,
    alr_mag,
    polyak_step_size,
)
from jaxtrain.optimizers.gradient_transforms import (
    adaptive_gradient_clip,
    centralize_gradients,
    normalize_gradients_std,
)
from jaxtrain.optimizers.grams import GramsState, cautious, grams, scale_by_cautious, scale_by_grad_sign, scale_by_grams
from jaxtrain.optimizers.gravity import GravityState, gravity, scale_by_gravity
from jaxtrain.optimizers.halpern import HalpernResult, vr_forb_resolvent, vr_halpern, vr_halpern_monotone
from jaxtrain.optimizers.low_precision import LowPrecisionState, stochastic_round, with_moment_dtype
from jaxtrain.optimizers.mars import MarsState, mars, scale_by_mars
from jaxtrain.optimizers.matrix_recovery import (
    RecoveryResult,
    l1_matrix_recovery_loss,
    sign_rip_deviation,
    sign_spectral_init,
    subgm,
)
from jaxtrain.optimizers.matrix_roots import matrix_inverse_root
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
from jaxtrain.optimizers.norms import dual_map, dual_norm, newton_schulz_orthogonalize, rms_to_rms_scale
from jaxtrain.optimizers.online_to_nonconvex import (
    Goldstein,
    O2ncState,
    goldstein_stationarity,
    o2nc,
    o2nc_radius,
    o2nc_step,
)
from jaxtrain.optimizers.optimistic_omd import OptimisticOmdState, optimistic_omd, optimistic_omd_sea
from jaxtrain.optimizers.orthograd import nlm_cosine, orthogonalize_gradients
from jaxtrain.optimizers.positive_negative_momentum import (
    PositiveNegativeMomentumState,
    scale_by_positive_negative_momentum,
)
from jaxtrain.optimizers.psps import PspsState, psps, scale_by_preconditioned_polyak
from jaxtrain.optimizers.ranger21 import SlowParamsState, lookahead, ranger21, ranger21_schedule
from jaxtrain.optimizers.sgd_sai import GsnrState, gradient_snr, scale_by_gsnr_at_init, sgd_sai
from jaxtrain.optimizers.shampoo import ShampooState, distributed_shampoo, scale_by_distributed_shampoo
from jaxtrain.optimizers.small_leaves import fuse_small_leaves
from jaxtrain.optimizers.smb_model_building import SmbState, model_building_step, smb
from jaxtrain.optimizers.soap import SoapState, eigenbasis_qr_update, scale_by_soap, soap
from jaxtrain.optimizers.spl_plus_cvar import (
    SplPlusState,
    cvar_objective,
    cvar_prox_linear_step,
    cvar_subgradient_step,
    empirical_cvar,
    empirical_var,
    spl_plus,
)
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
    "AdaBeliefState",
    "AdaBoundState",
    "AdaGradNormState",
    "AdaHessianState",
    "AdamNCState",
    "AdamPState",
    "AdanState",
    "AgvmState",
    "AlrHeavyBallState",
    "AlrMagState",
    "BilevelBatch",
    "BilevelState",
    "ClippedAdaGradState",
    "ClippedAdamState",
    "DiffGradState",
    "Goldstein",
    "GramsState",
    "GravityState",
    "GsnrState",
    "HalpernResult",
    "LowPrecisionState",
    "Margin",
    "MarsState",
    "MedianMomentumState",
    "NormalizedMomentumState",
    "O2ncState",
    "OptimisticOmdState",
    "PositiveNegativeMomentumState",
    "PspsState",
    "RecoveryResult",
    "SGDPState",
    "ShampooState",
    "SlowParamsState",
    "SmbState",
    "SnsmState",
    "SoapState",
    "SplPlusState",
    "StableDecayState",
    "SteepestDescentState",
    "SubsetNormState",
    "SubspaceMomentumState",
    "adabelief",
    "adabound",
    "adabound_bounds",
    "adafactor",
    "adagrad_norm",
    "adahessian",
    "adam_l2",
    "adam_nc",
    "adam_sn",
    "adamp",
    "adamw_original",
    "adan",
    "adaptive_gradient_clip",
    "add_norm_loss_decay",
    "add_stable_weight_decay",
    "ademamix",
    "ademamix_alpha_schedule",
    "ademamix_b3_schedule",
    "agvm",
    "agvm_scale",
    "alr_heavy_ball",
    "alr_mag",
    "amsbound",
    "amsgrad",
    "batch_perceptron_step",
    "block_and_merge_dims",
    "bo_rep",
    "cautious",
    "centralize_gradients",
    "clip_adagrad",
    "clip_adam",
    "clip_radagradd",
    "closest_smaller_divisor",
    "cvar_objective",
    "cvar_prox_linear_step",
    "cvar_subgradient_step",
    "diffgrad",
    "distributed_shampoo",
    "dual_map",
    "dual_norm",
    "effective_step_size",
    "eigenbasis_qr_update",
    "embed_gradient_ratio",
    "empirical_cvar",
    "empirical_var",
    "freeze_labels",
    "fuse_small_leaves",
    "goldstein_stationarity",
    "gradient_snr",
    "gradual_unfreeze_schedule",
    "grams",
    "gravity",
    "hutchinson_hessian_diag",
    "hypergradient",
    "l1_matrix_recovery_loss",
    "layerwise_grad_norms",
    "linear_system_step",
    "lookahead",
    "margin",
    "mars",
    "matrix_inverse_root",
    "model_building_step",
    "modular_norm",
    "module_gradient_variance",
    "newton_schulz_orthogonalize",
    "nlm_cosine",
    "normalize_gradients_std",
    "normalized_logistic_gd_step",
    "normalized_momentum",
    "normalized_weight_decay",
    "norms_by_role",
    "o2nc",
    "o2nc_radius",
    "o2nc_step",
    "optimistic_omd",
    "optimistic_omd_sea",
    "optimizer_bytes_per_param",
    "orthogonalize_gradients",
    "perceptron",
    "polyak_step_size",
    "project_scale_invariant",
    "psps",
    "ranger21",
    "ranger21_schedule",
    "relative_step_size",
    "rms_to_rms_scale",
    "scale_by_adabelief",
    "scale_by_adabound",
    "scale_by_adagrad_norm",
    "scale_by_adahessian",
    "scale_by_adam_nc",
    "scale_by_adan",
    "scale_by_agvm",
    "scale_by_amsgrad",
    "scale_by_cautious",
    "scale_by_clipped_adagrad",
    "scale_by_clipped_adam",
    "scale_by_diffgrad",
    "scale_by_distributed_shampoo",
    "scale_by_grad_sign",
    "scale_by_grams",
    "scale_by_gravity",
    "scale_by_gsnr_at_init",
    "scale_by_mars",
    "scale_by_mean_residual",
    "scale_by_median_momentum",
    "scale_by_positive_negative_momentum",
    "scale_by_preconditioned_polyak",
    "scale_by_projection",
    "scale_by_snsm",
    "scale_by_soap",
    "scale_by_steepest_descent",
    "scale_by_subset_norm",
    "scale_by_subspace_momentum",
    "sgd_freeze_embed",
    "sgd_sai",
    "sgdp",
    "sgdw",
    "sign_rip_deviation",
    "sign_spectral_init",
    "smb",
    "snsm",
    "soap",
    "spatial_average",
    "spl_plus",
    "spp_median_update",
    "steepest_descent",
    "stochastic_round",
    "subgm",
    "vr_forb_resolvent",
    "vr_halpern",
    "vr_halpern_monotone",
    "with_moment_dtype",
]
