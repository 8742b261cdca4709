"""What moves over time: learning rates and their like."""

from jaxtrain.schedules.batch_size import (
    BatchSizeState,
    adaptive_batch_size,
    bucketed_batch_size,
    coordinatewise_norm_test,
    inner_product_test_batch_size,
    norm_test_batch_size,
)
from jaxtrain.schedules.cooldown import branching_steps, cooldown_from_step, wsd_schedule
from jaxtrain.schedules.cosine_restarts import cosine_restarts
from jaxtrain.schedules.guidance import cfg_schedule, guided_score
from jaxtrain.schedules.linear_decay import (
    GradNormState,
    grad_norm_history,
    last_iterate_bound,
    linear_decay_schedule,
    record_grad_norm,
    refine_schedule,
    schedule_from_array,
)
from jaxtrain.schedules.random_matrix import batch_spike, hessian_noise_variance, max_learning_rate
from jaxtrain.schedules.step_decay import (
    anisotropic_gradient,
    heavy_ball_momentum,
    shb_excess_risk,
    step_decay_schedule,
)
from jaxtrain.schedules.swa import cyclical_lr, swa_constant_schedule
from jaxtrain.schedules.width_scaling import (
    label_params_matrix_vector,
    layerwise_adamw,
    mup_wd_scaling,
    predict_top_sv,
    singular_spectrum,
    sublayer_gain,
    top_singular_value,
)

__all__ = [
    "BatchSizeState",
    "GradNormState",
    "adaptive_batch_size",
    "anisotropic_gradient",
    "batch_spike",
    "branching_steps",
    "bucketed_batch_size",
    "cfg_schedule",
    "cooldown_from_step",
    "coordinatewise_norm_test",
    "cosine_restarts",
    "cyclical_lr",
    "grad_norm_history",
    "guided_score",
    "heavy_ball_momentum",
    "hessian_noise_variance",
    "inner_product_test_batch_size",
    "label_params_matrix_vector",
    "last_iterate_bound",
    "layerwise_adamw",
    "linear_decay_schedule",
    "max_learning_rate",
    "mup_wd_scaling",
    "norm_test_batch_size",
    "predict_top_sv",
    "record_grad_norm",
    "refine_schedule",
    "schedule_from_array",
    "shb_excess_risk",
    "singular_spectrum",
    "step_decay_schedule",
    "sublayer_gain",
    "swa_constant_schedule",
    "top_singular_value",
    "wsd_schedule",
]
