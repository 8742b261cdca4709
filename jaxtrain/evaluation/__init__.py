"""How results of many agents, tasks and seeds are compared, rankings made one, and confidence judged."""

from jaxtrain.evaluation.calibration import confidence_auroc, expected_calibration_error
from jaxtrain.evaluation.consensus import breakdown_point_estimate, bucket_merge_consensus
from jaxtrain.evaluation.nash_averaging import (
    AgentRatings,
    AgentTaskRatings,
    elo_fit,
    hodge_decomposition,
    maxent_nash,
    multidimensional_elo,
    nash_average_agent_task,
    nash_average_agents,
    win_prob_to_logits,
)
from jaxtrain.evaluation.rankings import (
    borda_ranking,
    copeland_ranking,
    hausdorff_kendall,
    kemeny_ranking,
    kendall_loss,
    kendall_tau_distance,
    pairwise_preferences,
)

__all__ = [
    "AgentRatings",
    "AgentTaskRatings",
    "borda_ranking",
    "breakdown_point_estimate",
    "bucket_merge_consensus",
    "confidence_auroc",
    "copeland_ranking",
    "elo_fit",
    "expected_calibration_error",
    "hausdorff_kendall",
    "hodge_decomposition",
    "kemeny_ranking",
    "kendall_loss",
    "kendall_tau_distance",
    "maxent_nash",
    "multidimensional_elo",
    "nash_average_agent_task",
    "nash_average_agents",
    "pairwise_preferences",
    "win_prob_to_logits",
]
