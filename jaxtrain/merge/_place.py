"""Where a merged model is put to be refreshed and evaluated."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import averaging
from jaxtrain.core import Batch, ModelState, Params
from jaxtrain.merge._rules import MergeError
from jaxtrain.merge._runs import evaluated, program_of
from jaxtrain.training import TrainState


class Place:
    """One member of an experiment, in whose place any parameters can be put and evaluated."""

    def __init__(self, module: Any, config: Any, *, batches: int):
        if hasattr(config, "seeds"):
            config = dataclasses.replace(config, seeds=tuple(config.seeds)[:1])
        experiment = module.build(config)
        if len(experiment.seeds) > 1:
            hyper = {
                name: np.asarray(value)[:1] if np.ndim(value) else value for name, value in experiment.hyper.items()
            }
            experiment = dataclasses.replace(experiment, seeds=tuple(experiment.seeds)[:1], hyper=hyper)
        self.config, self.experiment = config, experiment
        self.program = program_of(experiment)
        self.view = self._live_view()
        self._batches = batches

    def _live_view(self) -> str:
        """The view that is the parameters themselves; nothing is computed."""
        views = self.experiment.views
        found: list[str] = []

        def look(state: Any) -> None:
            found.extend(name for name, take in views.items() if take(state) is state.params)

        jax.eval_shape(look, self.program.member(self.program.abstract_state(), 0))
        if not found:
            raise MergeError(f"none of the views {', '.join(views)} is 'lambda state: state.params'; add one")
        return found[0]

    @functools.cached_property
    def empty(self) -> TrainState:
        """The state of a new run."""
        return self.program.init()

    def _training_batches(self) -> Batch:
        """Stacked, without a member axis."""
        iterator, found = self.experiment.batches(), []
        for _ in range(self._batches):
            try:
                batch = next(iterator)
            except StopIteration:
                break
            found.append(jax.tree.map(lambda x: x[0], batch) if self.experiment.batch_axis == 0 else batch)
        if not found:
            raise MergeError("the training data are empty: there is nothing to recompute running statistics on")
        return jax.tree.map(lambda *x: jnp.stack(x), *found)

    def state(self, params: Params) -> TrainState:
        """A state with these parameters; running statistics are recomputed on training batches, the rest is new."""
        model_state = self.empty.model_state
        if any(jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) for x in jax.tree.leaves(model_state)):
            model_state = self._refresh(params)
        return self.empty.replace(params=jax.tree.map(jnp.asarray, params), model_state=model_state)

    @functools.cached_property
    def _refresh(self) -> Callable[[Params], ModelState]:
        member, batches = self.program.member(self.empty, 0), self._training_batches()
        hyper = jax.tree.map(lambda x: x[0], self.program.hyper)

        def update(params: Params, model_state: ModelState, batch: Batch) -> ModelState:
            # a step of training, of which the running statistics are kept; XLA drops the rest
            state = member.replace(params=params, model_state=model_state)
            return self.experiment.step(state, batch, hyper)[0].model_state

        return jax.jit(lambda p: averaging.recompute_batch_stats(update, p, member.model_state, batches))

    def evaluate(self, params: Params) -> dict[tuple[str, str], float]:
        """What the experiment measures of the parameters."""
        found = evaluated(self.experiment, self.program, self.state(params), self.view)
        return {key: float(value[0]) for key, value in found.items()}

    def score(self, params: Params) -> float:
        """The first headline metric that is evaluated; higher is better."""
        found = self.evaluate(params)
        for metric in self.experiment.headline:
            for (_, name), value in found.items():
                if name == metric:
                    return value if metric in self.experiment.higher_is_better else -value
        raise MergeError(
            f"a greedy choice needs a score, and the experiment evaluates none of {', '.join(self.experiment.headline)}"
        )


def matched(stacked: Params, module: Any) -> Params:
    """Every model with its units in the order of the first one's."""
    spec_of = getattr(module, "permutation_spec", None)
    if spec_of is None:
        raise MergeError("--match needs permutation_spec(params) in the experiment's file; see weight_matching")
    first = jax.tree.map(lambda x: x[0], stacked)
    spec = spec_of(first)

    def match(params: Params) -> Params:
        found = averaging.weight_matching(jax.random.key(0), first, params, spec)
        return averaging.apply_permutation(found, params, spec)

    return jax.jit(lambda s: jax.lax.map(match, s))(stacked)
