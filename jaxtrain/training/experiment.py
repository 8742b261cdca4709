"""What a run needs to know: the one object that a workload or a user's file builds."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jax import Array

from jaxtrain.core import Batch, Key, Metrics, Params
from jaxtrain.training.ensemble import Ensemble, ensemble
from jaxtrain.training.state import TrainState

Hyper: TypeAlias = dict[str, Any]
"""Numeric hyperparameters of one member by name; traced, so that a grid of them is one program."""


@runtime_checkable
class DataIterator(Protocol):
    """An iterator that knows where it stands; grain's iterators are of this kind."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """The position, as something JSON can hold or bytes."""
        ...

    def set_state(self, state: Any) -> None: ...


Evaluation: TypeAlias = Iterator[tuple[str, Mapping[str, np.ndarray | Array]]]
"""Yields ``(split, {metric: (members,)})``. The run looks for a request to stop at every yield, so that a long
evaluation that yields ``("", {})`` between its batches can be interrupted; it is then repeated after the resume."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training run as data and pure functions.

    Attributes:
      init: ``(key, hyper) -> TrainState`` of one member; pure.
      step: ``(state, batch, hyper) -> (state, metrics)`` of one member; pure, not jitted.
      batches: makes the training iterator at its beginning.
      num_steps: training steps.
      seeds: one member for each; ``jax.random.key(seed)`` is its root key.
      hyper: numeric hyperparameters, each an array with one value for every member.
      batch_axis: 0 where batches carry a leading member axis, None where all members see the same batch.
      evaluate: ``(program, state) -> Evaluation``, run every ``eval_every`` steps and at the end.
      eval_every: steps between evaluations; 0: only at the end.
      log_every: steps between rows of training metrics.
      checkpoint_every: steps between checkpoints; 0: only at the end and when asked to stop.
      views: named parameters of one member, ``state -> params``; their digests go into ``summary.json``.
      early_stop: ``(step, rows of the last evaluation) -> bool``; asked after each evaluation.
      callbacks: ``(every, fn(step, state))`` pairs, called after the steps that ``every`` divides.
      mode: how members run: ``auto``, ``vmap`` or ``map``.
      mesh: a device mesh, or None for one device.
      rules: ``(path pattern, PartitionSpec)`` pairs that say how parameters are laid out on the mesh.
      headline: metrics of the final table, the most important first.
      higher_is_better: those of them where more is better.
      baseline: the view against which the others are compared in the table.
      best: ``(split, metric)`` whose best checkpoint is kept besides the newest.
    """

    init: Callable[[Key, Hyper], TrainState]
    step: Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]
    batches: Callable[[], DataIterator]
    num_steps: int
    seeds: Sequence[int] = (0,)
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_axis: int | None = None
    evaluate: Callable[[Any, TrainState], Evaluation] | None = None
    eval_every: int = 0
    log_every: int = 10
    checkpoint_every: int = 0
    views: Mapping[str, Callable[[TrainState], Params]] = dataclasses.field(
        default_factory=lambda: {"live": lambda state: state.params}
    )
    early_stop: Callable[[int, Mapping[str, Any]], bool] | None = None
    callbacks: Sequence[tuple[int, Callable[[int, TrainState], None]]] = ()
    mode: str = "auto"
    mesh: Any = None
    rules: Sequence[tuple[str, Any]] = ()
    headline: Sequence[str] = ("accuracy", "loss")
    higher_is_better: Sequence[str] = ("accuracy",)
    baseline: str = "live"
    best: tuple[str, str] | None = None

    def program(self) -> Ensemble:
        """All members as one program; nothing is computed.

        Raises:
          ValueError: as :func:`~jaxtrain.training.ensemble`.
        """
        return ensemble(
            self.init,
            self.step,
            seeds=self.seeds,
            hyper=self.hyper,
            batch_axis=self.batch_axis,
            mode=self.mode,
            mesh=self.mesh,
            rules=self.rules,
        )
