"""What a finished or half-finished run writes of itself: the same fields, whoever writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtrain.training.ensemble import Ensemble, States
from jaxtrain.training.experiment import Experiment
from jaxtrain.training.run_folder import digest, versions
from jaxtrain.training.sharding import bytes_per_device


def on_every_host(tree: Any) -> Any:
    """Arrays of any sharding as whole NumPy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    def of_leaf(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(of_leaf, tree)


def checkpoint_extra(
    *,
    data: Any,
    metrics_position: Any,
    evaluated: Mapping[tuple[str, str], np.ndarray],
    seconds: float,
    mode: str,
    config: Mapping[str, Any],
    evaluation_pending: bool = False,
    stopped_early: bool = False,
) -> dict[str, Any]:
    """What lies in a checkpoint besides the state, as JSON can hold it.

    Args:
      data: where the data iterator stands.
      metrics_position: where the metrics file ends.
      evaluated: the last evaluation, (split, metric) → a value for each member.
      seconds: that the run took so far.
      mode: how members run.
      config: the content of ``config.json``.
      evaluation_pending: whether the evaluation after the saved step is still to be made.
      stopped_early: whether the run ended before its last step.
    """
    return {
        "data": data,
        "metrics_position": metrics_position,
        "evaluation_pending": evaluation_pending,
        "stopped_early": stopped_early,
        "last_evaluation": [
            [split, metric, np.asarray(values).tolist()] for (split, metric), values in evaluated.items()
        ],
        "seconds": seconds,
        "mode": mode,
        "versions": versions(),
        "config": config,
    }


def summary_of(
    experiment: Experiment,
    program: Ensemble,
    state: States,
    *,
    name: str,
    step: int,
    results: Sequence[Mapping[str, Any]],
    costs: Mapping[str, float],
    digests: Mapping[str, Sequence[str]],
    baseline: str,
    stopped_early: bool = False,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
      experiment: what was run.
      program: its members.
      state: the last one.
      name: of the experiment.
      step: of the state.
      results: rows as of :func:`jaxtrain.training.summary.summarise`.
      costs: in seconds.
      digests: SHA-256 of the parameters of every view and member.
      baseline: the view that the others are compared with.
      stopped_early: whether the run ended before its last step.
    """

    def raw(x: Any) -> Any:
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return {
        "experiment": name,
        "steps": step,
        "stopped_early": stopped_early,
        "mode": program.mode,
        "parameters": program.num_parameters,
        "members": program.num_members,
        # of this process's devices: says whether the state really is distributed
        "state_bytes_per_device": bytes_per_device(state),
        "costs": {cost: round(seconds, 3) for cost, seconds in costs.items()},
        "results": list(results),
        "headline": list(experiment.headline),
        "higher_is_better": list(experiment.higher_is_better),
        "baseline": baseline,
        "digests": dict(digests),
        "state_digest": digest(on_every_host(jax.tree.map(raw, state))),
    }
