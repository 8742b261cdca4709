"""Mean, median, trimmed mean and mean around the median: each coordinate for itself."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxtrain.aggregation._sorting import sort_rows
from jaxtrain.aggregation._trees import check_byzantine, each_leaf
from jaxtrain.core.tree import check_stack


def mean(stacked: Any) -> Any:
    r"""The mean :math:`\frac1n \sum_i g_i`. Not robust: one worker moves it anywhere.

    Args:
      stacked: pytree, every leaf ``(n, ...)``.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: leading axes that disagree or are empty.

    >>> mean(jnp.array([[1.0], [3.0]])).tolist()
    [2.0]
    """
    check_stack(stacked, where="mean")
    return each_leaf(lambda x: jnp.mean(x, axis=0), stacked)


def _median_of(rows: list[Array]) -> Array:
    # halved before they are added, so that the sum cannot overflow
    return rows[(len(rows) - 1) // 2] / 2 + rows[len(rows) // 2] / 2


def coordinate_median(stacked: Any) -> Any:
    r"""The median of each coordinate; of an even number the mean of the two in the middle.

    While fewer than half of the workers are arbitrary (NaN and infinities included; a NaN counts as infinity), every coordinate lies
    within the range of the others'.

    Args:
      stacked: pytree, every leaf ``(n, ...)``.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: leading axes that disagree or are empty.

    Source: Yin, Chen, Kannan & Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates", arXiv 1803.01498.

    >>> coordinate_median(jnp.array([[1.0, 5.0], [2.0, 4.0], [1e30, jnp.nan]])).tolist()
    [2.0, 5.0]
    """
    check_stack(stacked, where="coordinate_median")
    return each_leaf(lambda x: _median_of(sort_rows(x)), stacked)


def trimmed_mean(stacked: Any, *, num_byzantine: int) -> Any:
    r"""The mean of each coordinate without its f smallest and f largest values.

    .. math:: \frac{1}{n-2f} \sum_{i=f+1}^{n-f} g_{(i)}

    While at most f workers are arbitrary (a NaN counts as infinity), every coordinate lies within the range of the
    others'.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n > 2 f.
      num_byzantine: f, how many are dropped at each end.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: n ≤ 2 f, a negative f, leading axes that disagree or are empty.

    Source: Yin, Chen, Kannan & Bartlett 2018, arXiv 1803.01498.

    >>> trimmed_mean(jnp.array([[1.0], [2.0], [6.0], [-1e30], [1e30]]), num_byzantine=1).tolist()
    [3.0]
    """
    n = check_stack(stacked, where="trimmed_mean")
    f = num_byzantine
    check_byzantine(n, f, where="trimmed_mean", needed=2 * f + 1, formula="2 f + 1")
    return each_leaf(lambda x: sum(sort_rows(x)[f : n - f]) / (n - 2 * f), stacked)


def around_the_median(x: Array, count: int) -> Array:
    """In each coordinate the mean of the ``count`` values that are nearest to the median."""
    rows = sort_rows(x)
    middle = _median_of(rows)
    # sorted, the nearest values are neighbours: the window whose far end is nearest
    best = total = None
    for start in range(len(rows) - count + 1):
        window = rows[start : start + count]
        radius = jnp.maximum(middle - window[0], window[-1] - middle)
        # all infinite: nothing to choose; in that coordinate too many are arbitrary
        if best is None:
            best, total = radius, sum(window)
        else:
            nearer = radius < best
            best, total = jnp.where(nearer, radius, best), jnp.where(nearer, sum(window), total)
    return total / count


def mean_around_median(stacked: Any, *, num_byzantine: int) -> Any:
    r"""In each coordinate the mean of the n − f values nearest to the median.

    While f < n/2 workers are arbitrary (a NaN counts as infinity), no coordinate is further from the median than
    the others' range.

    Args:
      stacked: pytree, every leaf ``(n, ...)``, n > 2 f.
      num_byzantine: f, how many values are left out.

    Returns:
      The tree without the leading axis.

    Raises:
      ValueError: n ≤ 2 f, a negative f, leading axes that disagree or are empty.

    Source: Xie, Koyejo & Gupta 2018, "Generalized Byzantine-tolerant SGD", arXiv 1802.10116 (there: meamed).

    >>> mean_around_median(jnp.array([[1.0], [2.0], [6.0]]), num_byzantine=1).tolist()
    [1.5]
    """
    n = check_stack(stacked, where="mean_around_median")
    f = num_byzantine
    check_byzantine(n, f, where="mean_around_median", needed=2 * f + 1, formula="2 f + 1")
    return each_leaf(lambda x: around_the_median(x, n - f), stacked)
