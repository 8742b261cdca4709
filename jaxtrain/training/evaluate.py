"""Means over a data set that is too large for one batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtrain.core import Batch


def evaluate_batches(
    split: str, measure: Callable[[Batch], Mapping[str, Any]], batches: Iterable[Batch]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    r"""Evaluates batch by batch, every example with the same weight: :math:`\frac1n \sum_{i=1}^n m(x_i)`.

    Batches may be of different sizes, so the last one need be neither dropped nor padded (a second size is a second
    compilation, no more). Sums are kept on the host in float64. Each batch is fetched when the next is under way, and
    between batches an empty result is yielded, so that a run can be interrupted in the middle: what
    ``Experiment.evaluate`` returns.

    Args:
      split: name of the split.
      measure: ``batch -> {metric: (…, examples)}``, a value for each example on the last axis; members of an ensemble
        on a leading axis, as ``program.map`` gives them.
      batches: the data set, once.

    Yields:
      ``("", {})`` after every batch but the last, then ``(split, {metric: mean (…)})``.

    Raises:
      ValueError: there is no batch or no example, metrics change from batch to batch, or a value has no example axis.

    >>> import jax.numpy as jnp
    >>> data = [jnp.array([1.0, 2.0, 3.0]), jnp.array([8.0])]
    >>> for split, metrics in evaluate_batches("test", lambda x: {"square": x**2}, data):
    ...     print(repr(split), {name: float(value) for name, value in metrics.items()})
    '' {}
    'test' {'square': 19.5}
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def add(found: Mapping[str, Any]) -> None:
        if sums and set(sums) != set(found):
            raise ValueError(
                f"evaluation of {split!r}: metrics were {sorted(sums)}, a later batch gave {sorted(found)}"
            )
        for name, value in jax.device_get(dict(found)).items():
            value = np.asarray(value)
            if value.ndim == 0:
                raise ValueError(
                    f"evaluation of {split!r}: {name!r} is one number for a batch; give the values of its examples"
                )
            sums[name] = sums.get(name, 0.0) + value.astype(np.float64).sum(axis=-1)
            counts[name] = counts.get(name, 0) + value.shape[-1]

    late: Mapping[str, Any] | None = None
    for batch in batches:
        now = measure(batch)
        if late is not None:
            add(late)
            yield "", {}
        late = now
    if late is None:
        raise ValueError(f"evaluation of {split!r}: there is no batch; an iterator serves for one evaluation only")
    add(late)
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise ValueError(f"evaluation of {split!r}: no examples for {', '.join(empty)}")
    yield split, {name: total / counts[name] for name, total in sums.items()}
