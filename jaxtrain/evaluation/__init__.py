"""How results of many agents, tasks and seeds are compared."""

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

__all__ = [
    "AgentRatings",
    "AgentTaskRatings",
    "elo_fit",
    "hodge_decomposition",
    "maxent_nash",
    "multidimensional_elo",
    "nash_average_agent_task",
    "nash_average_agents",
    "win_prob_to_logits",
]
